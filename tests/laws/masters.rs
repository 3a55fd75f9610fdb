//! Whatever fails at a master.

use proptest::prelude::*;
use virt_unlock::event::Outcome;
use virt_unlock::host::OpenError;

use crate::fake_host::masters::by_master;
use crate::fake_host::run::{Run, config};
use crate::fake_host::{Answer, FakeHost, Fault};

const MASTERS: [&str; 2] = ["office", "backup"];

/// What is wrong with a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// The first answers are wrong, and not all that are allowed.
    Answers(usize),
    /// All of them are.
    AllAnswers,
    Declined,
    NoHeader,
    /// It is another one than the volumes were enrolled for.
    OtherUuid,
    /// Its key is not the one from which theirs were derived.
    OtherKey,
    TooLarge,
    DiskFails,
}

impl Wrong {
    /// Whether its volumes are opened by it.
    fn is_good(self) -> bool {
        matches!(self, Self::Nothing | Self::Answers(_))
    }

    /// How many questions it costs.
    fn questions(self) -> usize {
        match self {
            Self::Nothing | Self::Declined | Self::OtherKey | Self::TooLarge | Self::DiskFails => 1,
            Self::Answers(wrong) => wrong + 1,
            Self::AllAnswers => 3,
            Self::NoHeader | Self::OtherUuid => 0,
        }
    }

    /// How many derivations.
    fn derivations(self) -> usize {
        match self {
            Self::Declined | Self::TooLarge => 0,
            other => other.questions(),
        }
    }

    fn happen(self, host: &FakeHost, master: &str) {
        let wrong = ["a", "b", "c"].map(Answer::Says);
        match self {
            Self::Nothing => {}
            Self::Answers(count) => {
                host.answers(&format!("master {master}"), &wrong[..count]);
            }
            Self::AllAnswers => {
                host.answers(&format!("master {master}"), &wrong);
            }
            Self::Declined => {
                host.answers(&format!("master {master}"), &[Answer::Declines]);
            }
            Self::DiskFails => {
                let error = OpenError::Other("EIO".to_owned());
                host.fault(&format!("open master {master}"), Fault::Open(error));
            }
            Self::NoHeader | Self::OtherUuid | Self::OtherKey | Self::TooLarge => {
                host.set(|world| {
                    let found = world.masters.get_mut(master).unwrap();
                    let header = found.header.as_mut().unwrap();
                    match self {
                        Self::OtherUuid => "another".clone_into(&mut header.uuid),
                        Self::OtherKey => found.secret = b"another".to_vec(),
                        Self::TooLarge => header.keyslots[0].memory_kib = u32::MAX.into(),
                        _ => found.header = Err(OpenError::Header("damaged".to_owned())),
                    }
                });
            }
        }
    }
}

fn wrong() -> impl Strategy<Value = Wrong> {
    prop_oneof![
        3 => Just(Wrong::Nothing),
        1 => (1..3_usize).prop_map(Wrong::Answers),
        6 => prop::sample::select(vec![
            Wrong::AllAnswers,
            Wrong::Declined,
            Wrong::NoHeader,
            Wrong::OtherUuid,
            Wrong::OtherKey,
            Wrong::TooLarge,
            Wrong::DiskFails,
        ]),
    ]
}

/// A volume: which master it names, and whether it is enrolled.
fn volumes() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((0..MASTERS.len(), prop::bool::weighted(0.8)), 1..9)
}

proptest! {
    // Each is a whole run with a thread for every step.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_at_a_master_each_volume_has_its_own_second_way(
        volumes in volumes(), wrongs in [wrong(), wrong()], after in any::<prop::sample::Index>(), plenty in any::<bool>(),
    ) {
        let names: Vec<String> = (0..volumes.len()).map(|place| format!("v{place}")).collect();
        let mut config = config(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let host = FakeHost::new();
        for master in MASTERS {
            host.master(master, master);
        }
        for (name, (master, enrolled)) in names.iter().zip(&volumes) {
            host.volume(name, name);
            if *enrolled {
                host.enroll(name, MASTERS[*master]);
            }
            by_master(&mut config, name, MASTERS[*master]);
        }
        // One waits for the first, and needs the key later than the others.
        let late = after.index(names.len());
        if late > 0 {
            config.volumes[late].after = vec![names[0].clone()];
        }
        if !plenty {
            host.set(|world| world.memory = (1 << 30) + (300 << 20));
        }
        for (master, wrong) in MASTERS.iter().zip(&wrongs) {
            wrong.happen(&host, master);
        }

        let run = Run::new(&host, &config);
        let report = run.up();
        prop_assert!(report.summary.is_good(), "{:#?}", report.summary);
        run.wait_unanswered(0);
        for (name, (master, enrolled)) in names.iter().zip(&volumes) {
            let by_it = *enrolled && wrongs[*master].is_good();
            let how = if by_it { format!("opened by master {}", MASTERS[*master]) } else { "opened".to_owned() };
            prop_assert_eq!(report.volume(name), &Outcome::Done(how));
            prop_assert_eq!(host.count(&format!("ask {name}")), usize::from(!by_it));
            let tried = usize::from(*enrolled && wrongs[*master] == Wrong::OtherKey);
            prop_assert_eq!(host.count(&format!("open {name}")), 1 + tried);
        }
        for (place, master) in MASTERS.iter().enumerate() {
            let is_needed = volumes.contains(&(place, true));
            let of = |count: usize| if is_needed { count } else { 0 };
            prop_assert_eq!(host.count(&format!("ask master {master}")), of(wrongs[place].questions()));
            prop_assert_eq!(host.count(&format!("open master {master}")), of(wrongs[place].derivations()));
        }
        host.assert_lawful();
    }
}
