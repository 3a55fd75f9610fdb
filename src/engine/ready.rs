//! When a domain that runs is ready for those that come after it.

use std::time::{Duration, Instant};

use super::up::Up;
use crate::cancel::Cancel;
use crate::config::{DomainConfig, Ready};
use crate::event::{Kind, Outcome, Phase, Progress};
use crate::facts::{DomainFacts, DomainState};
use crate::graph::Layer;
use crate::host::{Hypervisor, HypervisorError};
use crate::plan::Step;
use crate::text;

/// How the wait for a domain ended.
enum Wait {
    /// It is ready.
    Over,
    /// It is given up; why.
    NotReady(String),
    /// It is off again.
    Ended,
    /// Cancelled.
    Cancelled,
}

impl Up<'_> {
    /// What became of a domain that was started, or `restored`, just now.
    pub(super) fn await_started(
        &self,
        layer: &Layer,
        restored: bool,
        found: &DomainFacts,
        hypervisor: &dyn Hypervisor,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Outcome {
        let started = if restored {
            "restored from its managed save"
        } else {
            "started"
        };
        let Some(table) = self.config.domain(layer.name()).filter(|table| table.ready != Ready::Running) else {
            return Outcome::Done(started.to_owned());
        };
        let since = Instant::now();
        match self.await_ready(layer, table, found, hypervisor, progress, cancel) {
            Wait::Over => Outcome::Done(format!("{started}; ready after {}", text::seconds(since.elapsed()))),
            Wait::NotReady(_) => Outcome::Done(format!("{started}; not ready")),
            Wait::Ended => Outcome::Failed(format!(
                "was started and has ended before it was ready; its log may say why: /var/log/libvirt/qemu/{}.log",
                layer.name()
            )),
            Wait::Cancelled => Outcome::Cancelled,
        }
    }

    /// What becomes of a domain that ran already, for those that come after it.
    pub(super) fn await_running(
        &self,
        step: &Step,
        hypervisor: &dyn Hypervisor,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Outcome {
        let layer = &step.layer;
        let (Some(table), Some(uuid)) = (self.config.domain(layer.name()), self.uuids.get(layer.name())) else {
            return Outcome::Already(step.reason.clone());
        };
        let found = match self.patiently(progress, cancel, || hypervisor.domain(uuid, cancel)) {
            Ok(Some(found)) => found,
            Ok(None) => return Outcome::Failed("libvirt has no such domain any more".to_owned()),
            Err(HypervisorError::Cancelled) => return Outcome::Cancelled,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        match self.await_ready(layer, table, &found, hypervisor, progress, cancel) {
            Wait::Over => Outcome::Already(format!("{}, and ready", step.reason)),
            Wait::NotReady(_) => Outcome::Already(format!("{}, and not ready", step.reason)),
            Wait::Ended => Outcome::Failed("has ended before it was ready".to_owned()),
            Wait::Cancelled => Outcome::Cancelled,
        }
    }

    fn await_ready(
        &self,
        layer: &Layer,
        table: &DomainConfig,
        found: &DomainFacts,
        hypervisor: &dyn Hypervisor,
        progress: Progress<'_>,
        cancel: &Cancel,
    ) -> Wait {
        let until = match &table.ready {
            Ready::Running => return Wait::Over,
            Ready::Agent => "its guest agent answers".to_owned(),
            Ready::Tcp { host, port } => format!("port {port} of {host} answers"),
            Ready::Delay(delay) => format!("it has run for {}", text::duration(*delay)),
        };
        let limit = match table.ready {
            Ready::Delay(_) => String::new(),
            _ => format!(" (for {} at most)", text::duration(table.ready_timeout)),
        };
        let followers = self.followers.get(layer).map_or(&[][..], Vec::as_slice);
        progress.waiting(format!("runs; waiting until {until}{limit}"));
        for follower in followers {
            let words = format!("waiting for {layer}, until {until}{limit}");
            progress.for_layer(follower).waiting(words);
        }
        let wait = progress.during(Phase::Ready, || match table.ready {
            Ready::Delay(delay) => await_delay(&found.uuid, delay, hypervisor, cancel),
            _ => self.await_answer(table, found, hypervisor, cancel),
        });
        if let Wait::NotReady(why) = &wait {
            let follow = match followers {
                [] => "",
                _ => "; what waits for it is started all the same",
            };
            progress.warning_of(Kind::GuestNotReady, format!("{why}{follow}"));
        }
        wait
    }

    fn await_answer(&self, table: &DomainConfig, found: &DomainFacts, hypervisor: &dyn Hypervisor, cancel: &Cancel) -> Wait {
        if table.ready == Ready::Agent && !found.has_agent {
            return Wait::NotReady(
                "will not be ready: its XML has no channel for a guest agent (org.qemu.guest_agent.0)".to_owned(),
            );
        }
        let since = Instant::now();
        loop {
            let answer = match &table.ready {
                Ready::Tcp { host, port } => self.host.network.connect(host, *port, cancel),
                _ => hypervisor.ping_agent(&found.uuid, cancel).map_err(|error| error.to_string()),
            };
            let Err(last) = answer else { return Wait::Over };
            if cancel.is_raised() {
                return Wait::Cancelled;
            }
            if has_ended(&found.uuid, hypervisor, cancel) {
                return Wait::Ended;
            }
            let left = table.ready_timeout.saturating_sub(since.elapsed());
            if left.is_zero() {
                let limit = text::duration(table.ready_timeout);
                return Wait::NotReady(format!("is not ready after {limit} (ready-timeout): {last}"));
            }
            if cancel.wait((self.pace.look_again * 4).min(left)) {
                return Wait::Cancelled;
            }
        }
    }
}

fn await_delay(uuid: &str, delay: Duration, hypervisor: &dyn Hypervisor, cancel: &Cancel) -> Wait {
    if cancel.wait(delay) {
        Wait::Cancelled
    } else if has_ended(uuid, hypervisor, cancel) {
        Wait::Ended
    } else {
        Wait::Over
    }
}

/// Whether it is known to be off: a libvirt that does not answer now says nothing of its domains.
fn has_ended(uuid: &str, hypervisor: &dyn Hypervisor, cancel: &Cancel) -> bool {
    matches!(hypervisor.state(uuid, cancel), Ok(state) if !state.is_some_and(DomainState::is_active))
}
