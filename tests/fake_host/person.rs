//! The person at the console, by a script.

use virt_unlock::cancel::Cancel;
use virt_unlock::host::{Question, QuestionError, Questions};
use virt_unlock::secret::Secret;

use super::FakeHost;
use super::world::World;

/// What a person does at a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Types this.
    Says(&'static str),
    /// Ctrl+D
    Declines,
    /// There is no way to ask.
    CannotBeAsked,
}

impl World {
    /// What the disks of the guests open with.
    fn value_of(&self, secret: &str) -> Vec<u8> {
        let needed = self.domains.values().flat_map(|domain| &domain.secrets);
        needed
            .clone()
            .find(|(name, ..)| name == secret)
            .map(|(.., passphrase)| passphrase.clone())
            .unwrap()
    }

    fn answer(&mut self, volume: &str) -> Option<Result<Secret, QuestionError>> {
        let silent = self.silent.contains(volume);
        match self.script.get_mut(volume).and_then(std::collections::VecDeque::pop_front) {
            Some(Answer::Says(words)) => Some(Ok(Secret::copy_of(words.as_bytes()))),
            Some(Answer::Declines) => Some(Err(QuestionError::Declined)),
            Some(Answer::CannotBeAsked) => Some(Err(QuestionError::Failed("no agent".to_owned()))),
            None if silent => None,
            None if volume.ends_with(super::tokens::PIN) => Some(Ok(Secret::copy_of(super::tokens::RIGHT_PIN.as_bytes()))),
            None => {
                if let Some(secret) = volume.strip_prefix("secret ") {
                    return Some(Ok(Secret::copy_of(&self.value_of(secret))));
                }
                let keys = match volume.strip_prefix("master ") {
                    Some(master) => &self.masters[master].keys,
                    None => &self.volumes[volume].keys,
                };
                Some(Ok(Secret::copy_of(&keys[0])))
            }
        }
    }
}

impl Questions for FakeHost {
    fn ask(&self, question: &Question, cancel: &Cancel) -> Result<Secret, QuestionError> {
        let pin_of = question.id.strip_prefix("virt-unlock:pin:");
        let passphrase_of = question.id.strip_prefix("cryptsetup:");
        let volume = match question.id.strip_prefix("virt-unlock:secret:") {
            Some(secret) => format!("secret {secret}"),
            None => super::masters::asked_at(pin_of.or(passphrase_of).unwrap().as_ref()),
        };
        let volume = pin_of.map_or_else(|| volume.clone(), |_| super::tokens::pin_of(&volume));
        self.0.update(|world| {
            if let Some(other) = world.question_open.replace(volume.clone()) {
                world
                    .broken
                    .push(format!("a question for {volume} while that for {other} is open"));
            }
            world.questions.push(question.words.clone());
        });
        let answer = self.call(&format!("ask {volume}"), cancel, |world| world.answer(&volume));
        self.0.update(|world| world.question_open = None);
        answer
    }

    fn cached(&self) -> Vec<Secret> {
        self.look(|world| world.cached.clone())
    }
}
