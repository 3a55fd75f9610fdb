//! What a guest that is not started yet waits for.

use crate::config::Config;
use crate::facts::{DomainFacts, Facts, VolumeFacts};
use crate::graph::Layer;
use crate::report::{Record, Remembered};

/// In words, where a way up is under way: the volumes that it lies on and that are closed, or the guests before it that are not ready.
/// `None`: nothing that is known, so nothing will start it by itself.
pub(super) fn awaited(
    config: &Config,
    facts: &Facts,
    domain: &DomainFacts,
    volumes: &[String],
    record: &Record,
) -> Option<String> {
    let is_open = |name: &String| facts.volumes.get(name).is_some_and(VolumeFacts::is_open);
    let closed = volumes
        .iter()
        .filter(|name| !is_open(name))
        .map(|name| format!("volume {name}"));
    let waits = |name: &String| matches!(record.of(&Layer::Domain(name.as_str().into())), Some(Remembered::Waiting(_)));
    let before = config.domain(&domain.name).into_iter().flat_map(|table| &table.after);
    let before = before.filter(|name| waits(name)).map(|name| format!("guest {name}"));
    let all: Vec<String> = closed.chain(before).collect();
    (!all.is_empty()).then(|| format!("waiting for {}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DomainConfig;

    #[test]
    fn closed_volumes_and_guests_that_are_not_ready_are_waited_for() {
        let mut table = DomainConfig::new("web");
        table.after = vec!["db".to_owned(), "mail".to_owned()];
        let config = Config {
            domains: vec![table],
            ..Config::default()
        };
        let web = DomainFacts {
            name: "web".to_owned(),
            ..DomainFacts::default()
        };
        let waiting = Remembered::Waiting("until its guest agent answers".to_owned());
        let record = Record::from([(Layer::Domain("db".into()), waiting)]);
        let words = |volumes: &[String], record| awaited(&config, &Facts::default(), &web, volumes, record);
        assert_eq!(
            words(&["vm".to_owned()], &record).as_deref(),
            Some("waiting for volume vm, guest db")
        );
        assert_eq!(words(&[], &Record::default()), None);
    }
}
