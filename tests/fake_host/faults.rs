//! Each call that changes or asks something goes through [`FakeHost::call`]: it is written down, and has the faults that the
//! test wants for it.

use virt_unlock::cancel::Cancel;
use virt_unlock::host::{CloseError, HypervisorError, MountError, OpenError, QuestionError};
use virt_unlock::monitor::Ended;

use super::FakeHost;
use super::world::{What, World};

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It says this instead.
    Open(OpenError),
    /// It says this instead.
    Close(CloseError),
    /// It says this instead.
    Mount(MountError),
    /// It says this instead.
    Libvirt(HypervisorError),
    /// It says this instead.
    Question(QuestionError),
    /// It says this instead.
    Network(String),
    /// It never comes back by itself.
    Hang,
    /// It has a defect.
    Panic,
}

/// An error of a port that a fault can be, and its way to say "cancelled".
pub(super) trait Failure: Sized {
    const CANCELLED: Self;
    fn of(fault: Fault) -> Option<Self>;
}

macro_rules! failure {
    ($error:ident, $variant:pat => $value:expr) => {
        failure!($error, $error::Cancelled, $variant => $value);
    };
    ($error:ident, $cancelled:expr, $variant:pat => $value:expr) => {
        impl Failure for $error {
            const CANCELLED: Self = $cancelled;
            fn of(fault: Fault) -> Option<Self> {
                match fault {
                    $variant => $value,
                    _ => None,
                }
            }
        }
    };
}
failure!(OpenError, Fault::Open(error) => Some(error));
failure!(CloseError, Fault::Close(error) => Some(error));
failure!(MountError, Fault::Mount(error) => Some(error));
failure!(HypervisorError, Fault::Libvirt(error) => Some(error));
failure!(String, String::new(), Fault::Network(words) => Some(words));
failure!(QuestionError, Fault::Question(error) => Some(error));

impl FakeHost {
    /// One call: `work` is tried again after each change of the host until it gives something.
    pub(super) fn call<T, E: Failure>(
        &self,
        name: &str,
        cancel: &Cancel,
        mut work: impl FnMut(&mut World) -> Option<Result<T, E>>,
    ) -> Result<T, E> {
        let begun = self.0.update(|world| {
            if let Some(happens) = world.right_before.remove(name) {
                happens(world);
                world.changes += 1;
            }
            if world.dead {
                return None;
            }
            world.log.push((name.to_owned(), What::Begun));
            let number = world.calls;
            world.calls += 1;
            if let Some((_, false, flag)) = world.cancel_at.as_ref().filter(|(at, _, _)| *at == number) {
                flag.raise();
            }
            let fault = world.faults.get_mut(name).and_then(std::collections::VecDeque::pop_front);
            Some((number, fault))
        });
        let Some((number, fault)) = begun else {
            return Err(E::CANCELLED);
        };
        let result = match fault {
            Some(Fault::Panic) => {
                self.0.update(|world| world.log.push((name.to_owned(), What::Failed)));
                panic!("a defect in {name}, wanted by the test")
            }
            Some(Fault::Hang) => self.0.wait(None, cancel, |_| None),
            Some(fault) => match E::of(fault.clone()) {
                Some(error) => Ok(Err(error)),
                None => panic!("{name} cannot fail with {fault:?}"),
            },
            None => self.0.wait(None, cancel, |world| {
                if world.dead || world.held.contains(name) {
                    None
                } else {
                    work(world)
                }
            }),
        };
        let result = match result {
            Ok(result) => result,
            Err(Ended::Cancelled | Ended::TimedOut) => Err(E::CANCELLED),
        };
        self.0.update(|world| {
            let what = if result.is_ok() { What::Worked } else { What::Failed };
            world.log.push((name.to_owned(), what));
            if let Some(happens) = result.is_ok().then(|| world.right_after.remove(name)).flatten() {
                happens(world);
                world.changes += 1;
            }
            if let Some((_, true, flag)) = world.cancel_at.as_ref().filter(|(at, _, _)| *at == number) {
                flag.raise();
            }
        });
        result
    }
}
