//! Why nothing was done.

use std::fmt;

use crate::config::Problems;
use crate::event::Kind;
use crate::plan::UnknownName;
use crate::report::{Colour, Style, plain};

/// Nothing was touched, and why. What fails on the way is an event of its layer instead.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong.
    Config(Problems),
    /// The command line is wrong.
    Usage(String),
    /// The configuration has no table for what is named.
    NotConfigured {
        /// What is missing.
        words: String,
        /// The table that it needs, line by line.
        table: String,
    },
    /// Not allowed, or a needed service is not there.
    Unable(String),
    /// It did not work, and there is nothing else to be done.
    NotDone(String),
    /// libvirt is not there, or does not answer.
    Libvirt(String),
    /// Cancelled before anything was done.
    Cancelled,
}

impl Failure {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::NotConfigured { .. } => 2,
            Self::Unable(_) | Self::Libvirt(_) => 3,
            Self::NotDone(_) | Self::Cancelled => 1,
        }
    }

    /// How much it matters, for the journal (syslog(3)): who cancels a run knows it.
    pub(super) fn priority(&self) -> u8 {
        if matches!(self, Self::Cancelled) { 6 } else { 3 }
    }

    /// Its kind, for the journal.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Config(_) => Some(Kind::ConfigWrong),
            Self::Libvirt(_) => Some(Kind::LibvirtSilent),
            Self::Usage(_) | Self::NotConfigured { .. } | Self::Unable(_) | Self::NotDone(_) | Self::Cancelled => None,
        }
    }

    pub(super) fn for_terminal(&self) -> String {
        let colour = Colour::on_stderr();
        let title = colour.paint(Style::Bad, "virt-unlock:");
        match self {
            Self::Config(problems) => problems.render(colour.0),
            Self::NotConfigured { words, table } => format!("{title} {}:\n\n{table}", plain(words)),
            other => format!("{title} {}", plain(&other.to_string())),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(problems) => problems.fmt(f),
            Self::Usage(words) | Self::Unable(words) | Self::NotDone(words) | Self::Libvirt(words) => f.write_str(words),
            Self::NotConfigured { words, table } => write!(f, "{words}:\n\n{table}"),
            Self::Cancelled => f.write_str("cancelled; nothing was changed"),
        }
    }
}

impl From<UnknownName> for Failure {
    fn from(unknown: UnknownName) -> Self {
        Self::Usage(unknown.to_string())
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Config(problems)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Unable(format!("the system gives no more threads or files: {error}"))
    }
}
