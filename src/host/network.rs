//! TCP connections to guests.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Network;
use crate::cancel::Cancel;
use crate::monitor::{Ended, Monitor};

/// How long one address may take to answer. A host that is there answers, or refuses, far sooner.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long one try may take, the look-up of a name and all its addresses included.
const TRY_LIMIT: Duration = Duration::from_secs(10);

/// The network of this host.
pub struct Tcp;

impl Network for Tcp {
    fn connect(&self, host: &str, port: u16, cancel: &Cancel) -> Result<(), String> {
        let answer = Arc::new(Monitor::new(None));
        let (slot, host) = (Arc::clone(&answer), host.to_owned());
        // A look-up of a name cannot be cancelled: it is left behind then, and ends by its own limit.
        let begun = thread::Builder::new().name("connect".to_owned()).spawn(move || {
            let result = attempt(&host, port).map_err(|error| error.to_string());
            slot.update(|slot| *slot = Some(result));
        });
        begun.map_err(|error| format!("no thread to connect by: {error}"))?;
        match answer.wait(Some(TRY_LIMIT), cancel, Option::take) {
            Ok(result) => result,
            Err(Ended::Cancelled) => Err("cancelled".to_owned()),
            Err(Ended::TimedOut) => Err("no answer".to_owned()),
        }
    }
}

fn attempt(host: &str, port: u16) -> io::Result<()> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ANSWER_LIMIT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn who_listens_is_found_and_who_does_not_is_said() {
        let cancel = Cancel::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(Tcp.connect("127.0.0.1", port, &cancel), Ok(()));
        assert_eq!(Tcp.connect("localhost", port, &cancel), Ok(()));
        // Another address of the host's own: that port of this one somebody else could take as soon as it is free.
        let words = Tcp.connect("127.0.0.2", port, &cancel).unwrap_err();
        assert!(words.contains("refused"), "{words}");
        cancel.raise();
        assert_eq!(Tcp.connect("127.0.0.1", port, &cancel), Err("cancelled".to_owned()));
    }
}
