//! What happens, as one type. The terminal, the journal and the service's status line only render it.

use std::fmt;
use std::sync::Arc;

use crate::graph::Layer;

/// Something that happened to a layer, or to the run as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The layer; `None`: the run as a whole.
    pub layer: Option<Layer>,
    /// What.
    pub happened: Happened,
}

/// What happened. The words are sentences without the layer's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Something is being done now: "opening".
    Working(String),
    /// It waits, and for what: "waiting for /dev/vg0/mail to appear".
    Waiting(String),
    /// A question is open.
    Asking(String),
    /// Worth saying, no more.
    Note(String),
    /// Something is not as it should be, and it went on all the same.
    Warning(String),
    /// The layer is through.
    Ended(Outcome),
}

/// How a layer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; the words say what ("opened").
    Done(String),
    /// Nothing was to be done; the words say why.
    Already(String),
    /// It was not asked for; the words say why.
    Left(String),
    /// It was not tried, because something that it needs is not there.
    Skipped(String),
    /// It did not work; the words say why and what to do.
    Failed(String),
    /// It was cancelled.
    Cancelled,
}

impl Outcome {
    /// Whether what waits for this may go on.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Already(_))
    }

    /// Whether this makes the whole run "not as asked" (exit status 1).
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::Skipped(_) | Self::Failed(_) | Self::Cancelled)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(words) | Self::Already(words) | Self::Left(words) => f.write_str(words),
            Self::Skipped(words) => write!(f, "not done: {words}"),
            Self::Failed(words) => write!(f, "failed: {words}"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// Where events go. Clones lead to the same place.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(&Event) + Send + Sync>);

impl Events {
    /// Events that are given to `sink`, from any thread, in the order in which they happen.
    pub fn new(sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Says one thing.
    pub fn say(&self, layer: Option<&Layer>, happened: Happened) {
        (self.0)(&Event {
            layer: layer.cloned(),
            happened,
        });
    }

    /// Passes on what was said elsewhere.
    pub fn pass(&self, event: &Event) {
        (self.0)(event);
    }

    /// A voice for one layer.
    pub fn of<'a>(&'a self, layer: &'a Layer) -> Progress<'a> {
        Progress { events: self, layer }
    }
}

/// One layer's voice.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    events: &'a Events,
    layer: &'a Layer,
}

impl Progress<'_> {
    /// Something is being done now.
    pub fn working(&self, words: impl Into<String>) {
        self.events.say(Some(self.layer), Happened::Working(words.into()));
    }

    /// It waits for something.
    pub fn waiting(&self, words: impl Into<String>) {
        self.events.say(Some(self.layer), Happened::Waiting(words.into()));
    }

    /// A question is open.
    pub fn asking(&self, words: impl Into<String>) {
        self.events.say(Some(self.layer), Happened::Asking(words.into()));
    }

    /// Worth saying.
    pub fn note(&self, words: impl Into<String>) {
        self.events.say(Some(self.layer), Happened::Note(words.into()));
    }

    /// Not as it should be.
    pub fn warning(&self, words: impl Into<String>) {
        self.events.say(Some(self.layer), Happened::Warning(words.into()));
    }
}
