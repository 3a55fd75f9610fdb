//! What happens, as one type. The terminal, the journal and the service's status line only render it.

use std::fmt;
use std::sync::Arc;

use crate::graph::Layer;

/// Something that happened to a layer, or to the run as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The layer; `None`: the run as a whole.
    pub layer: Option<Layer>,
    /// What kind of thing, where it is one that is looked for and explained; words are for people.
    pub kind: Option<Kind>,
    /// What.
    pub happened: Happened,
}

/// The things that an administrator, or a program that watches a host, wants to find and to have explained. Each has an id in the
/// journal (`report::ids`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A volume was opened, or was open already.
    VolumeOpen,
    /// Every way to a key was tried: its passphrases were wrong, its key files did not fit.
    VolumeGivenUp,
    /// A volume stays closed for a reason that has no kind of its own.
    VolumeNotOpened,
    /// The device of a volume did not appear.
    DeviceMissing,
    /// A mapping of somebody else's has the volume's name.
    ForeignMapping,
    /// No LUKS header, or a damaged one.
    NoHeader,
    /// Too little memory is free to derive the key.
    NoMemory,
    /// A passphrase is asked for.
    QuestionOpen,
    /// A volume was closed.
    VolumeClosed,
    /// A volume stays open, or mounted, against the order.
    VolumeStaysOpen,
    /// A filesystem was mounted.
    Mounted,
    /// A filesystem was not mounted.
    NotMounted,
    /// A guest was started.
    GuestStarted,
    /// A guest was not started.
    GuestNotStarted,
    /// A guest runs and did not become ready in its time.
    GuestNotReady,
    /// A guest shut down as it was asked to.
    GuestShutDown,
    /// A guest's memory was saved, and it ended.
    GuestSaved,
    /// A guest has less time to shut down than it should have, because the whole way down must be through.
    GuestCutShort,
    /// A guest did not shut down in its time, and its plug was pulled.
    GuestDestroyed,
    /// A guest still runs against the order.
    GuestStillRuns,
    /// What a way down came to, counted.
    WayDown,
    /// All that a unit takes down is down.
    AllDown,
    /// Something that a unit takes down is still up.
    NotAllDown,
    /// libvirt does not answer.
    LibvirtSilent,
    /// The configuration is wrong.
    ConfigWrong,
}

/// What a layer spends a stretch of its way with, where it is somebody else who takes the time: a person, libcryptsetup, libvirt, a
/// filesystem. The timeline is drawn of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its device is not there yet.
    Device,
    /// Its LUKS header is read.
    Header,
    /// A question is open.
    Question,
    /// It waits for a processor, or for memory, to derive the key.
    Room,
    /// A key is derived, and the volume opened with it.
    Key,
    /// Its filesystem is checked and mounted.
    Mount,
    /// libvirt starts a pool and reads its volumes.
    Pool,
    /// libvirt reads the definition of a guest.
    Definition,
    /// libvirt starts a guest.
    Start,
    /// A guest runs and is not ready yet.
    Ready,
}

impl Phase {
    /// All of them, in the order in which a layer goes through them.
    pub const ALL: [Self; 10] = [
        Self::Device,
        Self::Header,
        Self::Question,
        Self::Room,
        Self::Key,
        Self::Mount,
        Self::Pool,
        Self::Definition,
        Self::Start,
        Self::Ready,
    ];

    /// Its word in the journal.
    pub fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Header => "header",
            Self::Question => "question",
            Self::Room => "room",
            Self::Key => "key",
            Self::Mount => "mount",
            Self::Pool => "pool",
            Self::Definition => "definition",
            Self::Start => "start",
            Self::Ready => "ready",
        }
    }
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
    /// A stretch of its way begins.
    Begun(Phase),
    /// That stretch is over.
    Over(Phase),
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

/// An outcome, and its kind where what was done and how it ended do not tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// How it ended.
    pub outcome: Outcome,
    /// What kind of end it is.
    pub kind: Option<Kind>,
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, kind: None }
    }
}

impl Outcome {
    /// The same, of this kind.
    #[must_use]
    pub fn of(self, kind: Kind) -> Ending {
        Ending {
            outcome: self,
            kind: Some(kind),
        }
    }

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
        self.tell(layer, None, happened);
    }

    /// Says one thing and of what kind it is.
    pub fn tell(&self, layer: Option<&Layer>, kind: impl Into<Option<Kind>>, happened: Happened) {
        (self.0)(&Event {
            layer: layer.cloned(),
            kind: kind.into(),
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

    /// It waits for a libvirt that does not answer.
    pub fn waiting_for_libvirt(&self, words: impl Into<String>) {
        self.events
            .tell(Some(self.layer), Kind::LibvirtSilent, Happened::Waiting(words.into()));
    }

    /// A question is open.
    pub fn asking(&self, words: impl Into<String>) {
        self.events
            .tell(Some(self.layer), Kind::QuestionOpen, Happened::Asking(words.into()));
    }

    /// Does `work`, and says when it began and when it was over.
    pub fn during<T>(&self, phase: Phase, work: impl FnOnce() -> T) -> T {
        self.events.say(Some(self.layer), Happened::Begun(phase));
        let done = work();
        self.events.say(Some(self.layer), Happened::Over(phase));
        done
    }

    /// The voice of another layer, for what it waits for here.
    #[must_use]
    pub fn for_layer<'b>(&'b self, layer: &'b Layer) -> Progress<'b> {
        Progress {
            events: self.events,
            layer,
        }
    }

    /// Worth saying.
    pub fn note(&self, words: impl Into<String>) {
        self.events.say(Some(self.layer), Happened::Note(words.into()));
    }

    /// Not as it should be.
    pub fn warning(&self, words: impl Into<String>) {
        self.events.say(Some(self.layer), Happened::Warning(words.into()));
    }

    /// Not as it should be, in a way that is looked for.
    pub fn warning_of(&self, kind: Kind, words: impl Into<String>) {
        self.events.tell(Some(self.layer), kind, Happened::Warning(words.into()));
    }
}
