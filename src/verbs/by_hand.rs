//! How what a person orders at a terminal begins: `up`, `down`, and `down --now`.

use std::path::Path;

use super::session::Session;
use super::{App, Failure, NOTHING_CONFIGURED};
use crate::cancel::Cancel;
use crate::event::{Events, Happened};
use crate::host::lock::FOLDER;
use crate::host::orders::{Order, Orders};
use crate::plan::Names;
use crate::report::Report;

/// A run of a person's.
pub(super) struct ByHand {
    pub session: Session,
    /// What is asked for.
    pub names: Names,
    /// What happens is shown at the terminal, and told to `status`.
    pub events: Events,
    /// Raised by an order that this run obeys.
    pub cancel: Cancel,
    _orders: Orders,
}

impl ByHand {
    /// `session`: what this run goes by. `None`: nothing is configured and nothing named, which is said.
    ///
    /// # Errors
    /// When this person may not, or the configuration is wrong.
    pub fn begin(
        app: &App,
        verb: &str,
        names: &[String],
        session: impl FnOnce() -> Result<Session, Failure>,
        obeys: fn(Order) -> bool,
    ) -> Result<Option<Self>, Failure> {
        Session::need_root(verb)?;
        let session = session()?;
        let names = Names::new(names.iter().cloned());
        let orders = Orders::listen(obeys)?;
        let events = Report::for_person(app.verbosity, Path::new(FOLDER)).events();
        if session.is_empty() && names.is_all() {
            events.say(None, Happened::Note(NOTHING_CONFIGURED.to_owned()));
            return Ok(None);
        }
        Ok(Some(Self {
            session,
            names,
            events,
            cancel: orders.cancel(),
            _orders: orders,
        }))
    }
}
