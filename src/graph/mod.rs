//! Layers and what each needs. One graph for both directions: walked forward to come up, backward to go down. Pure.

use std::fmt;
use std::sync::Arc;

/// One thing on the way up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// A LUKS volume, by its name.
    Volume(Arc<str>),
    /// The filesystem on a volume, by the volume's name.
    Mount(Arc<str>),
    /// A libvirt storage pool.
    Pool(Arc<str>),
    /// A libvirt domain.
    Domain(Arc<str>),
}

impl Layer {
    /// The name alone.
    pub fn name(&self) -> &str {
        match self {
            Self::Volume(name) | Self::Mount(name) | Self::Pool(name) | Self::Domain(name) => name,
        }
    }

    /// The kind in one word, as people read it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Volume(_) => "volume",
            Self::Mount(_) => "mount",
            Self::Pool(_) => "pool",
            Self::Domain(_) => "guest",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}
