//! Signals as orders to a run: end, go back down, let go for a while.

use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGURG, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::cancel::Cancel;
use crate::monitor::Monitor;

/// What somebody outside wants of this process; a later one in this list overrules an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// `SIGURG`: a unit that works on one name takes over; go on when it is through.
    YieldToName,
    /// `SIGUSR1`: somebody at a terminal takes over; go on when he is through.
    Yield,
    /// `SIGUSR2`: the way down has begun; end the way up.
    End,
    /// `SIGTERM`, `SIGINT`, `SIGHUP`.
    Terminate,
}

struct State {
    order: Option<Order>,
    cancel: Cancel,
}

/// Hears the orders from when it is made until the process ends.
#[derive(Clone)]
pub struct Orders(Arc<Monitor<State>>);

impl Orders {
    /// Begins to listen. Orders that `obeys` does not take are heard and left. A signal that whoever started this process had it
    /// ignore (nohup(1), a shell's `&`) stays ignored.
    ///
    /// # Errors
    /// When there is no descriptor or thread for it.
    pub fn listen(obeys: fn(Order) -> bool) -> io::Result<Self> {
        let ignored = ignored();
        let wanted = [SIGHUP, SIGINT].into_iter().filter(|signal| ignored & bit(*signal) == 0);
        let mut signals = Signals::new(wanted.chain([SIGTERM, SIGURG, SIGUSR1, SIGUSR2]))?;
        let orders = Self(Arc::new(Monitor::new(State {
            order: None,
            cancel: Cancel::new()?,
        })));
        let heard = orders.clone();
        thread::Builder::new().name("orders".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let order = match signal {
                    SIGURG => Order::YieldToName,
                    SIGUSR1 => Order::Yield,
                    SIGUSR2 => Order::End,
                    _ => Order::Terminate,
                };
                if obeys(order) {
                    heard.give(order);
                }
            }
        })?;
        Ok(orders)
    }

    fn give(&self, order: Order) {
        self.0.update(|state| {
            state.order = state.order.max(Some(order));
            state.cancel.raise();
        });
    }

    /// The flag that the next order raises, or that one not taken yet has raised.
    pub fn cancel(&self) -> Cancel {
        self.0.look(|state| state.cancel.clone())
    }

    /// The order that was given, if any, and a new flag for the next.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn take(&self) -> io::Result<Option<Order>> {
        let fresh = Cancel::new()?;
        Ok(self.0.update(|state| {
            let order = state.order.take();
            if order.is_some() {
                state.cancel = fresh;
            }
            order
        }))
    }
}

/// The signals that this process ignores, one bit each (proc(5), `SigIgn` in /proc/self/status); none where that cannot be read.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Signal 1 is the lowest bit.
fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_strongest_order_counts_and_is_taken_once() {
        let orders = Orders(Arc::new(Monitor::new(State {
            order: None,
            cancel: Cancel::new().unwrap(),
        })));
        let flag = orders.cancel();
        orders.give(Order::End);
        orders.give(Order::Yield);
        assert!(flag.wait(Duration::ZERO));
        assert_eq!(orders.take().unwrap(), Some(Order::End));
        assert_eq!(orders.take().unwrap(), None);
        assert!(!orders.cancel().is_raised());
    }
}
