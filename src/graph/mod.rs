//! Layers and what each needs. One graph for both directions: walked forward to come up, backward to go down. Pure.

mod build;
mod order;
mod placement;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

pub use build::of;
pub use order::Cycle;
pub use placement::Placement;

/// One thing on the way up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// A LUKS volume, by its name.
    Volume(Arc<str>),
    /// The filesystem on a volume, by the volume's name.
    Mount(Arc<str>),
    /// A libvirt storage pool.
    Pool(Arc<str>),
    /// A secret of libvirt's, by its name in the configuration.
    Secret(Arc<str>),
    /// A libvirt domain.
    Domain(Arc<str>),
}

impl Layer {
    /// The name alone.
    pub fn name(&self) -> &str {
        match self {
            Self::Volume(name) | Self::Mount(name) | Self::Pool(name) | Self::Secret(name) | Self::Domain(name) => name,
        }
    }

    /// Whether it has no name of its own on the command line: it comes with the volume or the domain that needs it.
    pub fn is_nameless(&self) -> bool {
        matches!(self, Self::Pool(_) | Self::Secret(_))
    }

    /// The kind in one word, as people read it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Volume(_) => "volume",
            Self::Mount(_) => "mount",
            Self::Pool(_) => "pool",
            Self::Secret(_) => "secret",
            Self::Domain(_) => "guest",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// How one layer needs another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Only an order: it waits until the other is ready or will not be, and then goes its way.
    Order,
    /// It cannot be up without the other.
    Requires,
}

/// A layer with what it needs.
#[derive(Clone, Debug)]
pub struct Node {
    /// Which layer.
    pub layer: Layer,
    /// What it needs: places in the graph, each once.
    pub needs: Vec<(usize, Need)>,
}

/// All layers, each after everything that it needs; where there is a choice, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    index: HashMap<Layer, usize>,
}

impl Graph {
    /// The layers in the order up.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where a layer stands.
    pub fn place(&self, layer: &Layer) -> Option<usize> {
        self.index.get(layer).copied()
    }

    /// Marks `chosen` and all that they require, directly or not.
    pub fn with_required(&self, chosen: &[usize]) -> Vec<bool> {
        let mut marked = vec![false; self.nodes.len()];
        for place in chosen {
            marked[*place] = true;
        }
        // What is needed stands before what needs it, so one pass from the end reaches everything.
        for place in (0..self.nodes.len()).rev() {
            if marked[place] {
                for (need, kind) in &self.nodes[place].needs {
                    marked[*need] |= *kind == Need::Requires;
                }
            }
        }
        marked
    }

    /// Marks `chosen` and all that require them, directly or not.
    pub fn with_dependents(&self, chosen: &[usize]) -> Vec<bool> {
        let mut marked = vec![false; self.nodes.len()];
        for place in chosen {
            marked[*place] = true;
        }
        for place in 0..self.nodes.len() {
            marked[place] |= self.nodes[place]
                .needs
                .iter()
                .any(|(need, kind)| *kind == Need::Requires && marked[*need]);
        }
        marked
    }
}
