//! What each layer was told last, kept for `virt-unlock status`: the kernel says that a volume is closed, this says why. Words
//! only, below /run: nothing goes wrong when it is old or gone.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Board, Sink};
use crate::event::{Event, Happened, Outcome};
use crate::graph::Layer;
use crate::private_file;
use crate::text::plain;

/// How a layer stood when it was last heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remembered {
    /// On its way, and what it waits for.
    Waiting(String),
    /// It did not work, and why.
    Failed(String),
}

/// What is remembered of all layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record(BTreeMap<String, Remembered>);

impl<const N: usize> From<[(Layer, Remembered); N]> for Record {
    fn from(all: [(Layer, Remembered); N]) -> Self {
        Self(all.map(|(layer, remembered)| (layer.to_string(), remembered)).into())
    }
}

impl Record {
    /// What lies below `folder`; nothing where it cannot be read.
    pub fn read(folder: &Path) -> Self {
        let mut all = Self::read_file(&folder.join(VOLUMES));
        all.0.extend(Self::read_file(&folder.join(GUESTS)).0);
        all
    }

    fn read_file(path: &Path) -> Self {
        fs::read(path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// What is remembered of this layer.
    pub fn of(&self, layer: &Layer) -> Option<&Remembered> {
        self.0.get(&layer.to_string())
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        // Reasons name guests, processes and files that an ordinary user does not see otherwise.
        private_file::replace(path, &serde_json::to_vec(self)?)
    }
}

/// One file for each of the two locks, so that it has one writer at a time.
const VOLUMES: &str = "volumes.json";
const GUESTS: &str = "guests.json";

/// Keeps the record.
pub(super) struct Recorder {
    folder: PathBuf,
}

impl Recorder {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }
}

impl Sink for Recorder {
    fn show(&mut self, event: &Event, _board: &Board) {
        let Some(layer) = &event.layer else { return };
        let now = match &event.happened {
            Happened::Note(_) | Happened::Warning(_) | Happened::Begun(_) | Happened::Over(_) => return,
            Happened::Working(words) | Happened::Waiting(words) => Some(Remembered::Waiting(plain(words))),
            Happened::Asking(_) => Some(Remembered::Waiting("a question for it is open".to_owned())),
            Happened::Ended(Outcome::Failed(words) | Outcome::Skipped(words)) => Some(Remembered::Failed(plain(words))),
            Happened::Ended(_) => None,
        };
        let path = self.folder.join(match layer {
            Layer::Volume(_) | Layer::Mount(_) => VOLUMES,
            Layer::Pool(_) | Layer::Secret(_) | Layer::Domain(_) => GUESTS,
        });
        let mut record = Record::read_file(&path);
        let before = record.0.get(&layer.to_string());
        if before == now.as_ref() {
            return;
        }
        match now {
            Some(now) => record.0.insert(layer.to_string(), now),
            None => record.0.remove(&layer.to_string()),
        };
        // The folder is gone, or full: status then knows less.
        let _ = record.write(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_failure_is_remembered_until_it_works() {
        let folder = tempfile::tempdir().unwrap();
        let layer = Layer::Volume("mail".into());
        let mut recorder = Recorder::new(folder.path());
        let mut tell = |happened| {
            let event = Event {
                layer: Some(layer.clone()),
                kind: None,
                happened,
            };
            recorder.show(&event, &Board::default());
            Record::read(folder.path()).of(&layer).cloned()
        };
        let failed = Happened::Ended(Outcome::Failed("its device is gone".into()));
        assert_eq!(tell(failed), Some(Remembered::Failed("its device is gone".into())));
        let mode = fs::metadata(folder.path().join(VOLUMES)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "what is in it is for root alone");
        assert_eq!(tell(Happened::Ended(Outcome::Done("opened".into()))), None);
        assert_eq!(Record::read(Path::new("/nowhere")), Record::default());
    }
}
