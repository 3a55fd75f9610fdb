//! A person's terminal on the host's console (the demo).

use super::Host;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::{
    io::{self, Read, Write},
    thread,
};

/// Ctrl-], as telnet and `virsh console` have it.
const LEAVE: u8 = 0x1d;

/// For [`super::Builder::watch`]: shows the console on standard output as it comes.
pub fn show(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

impl Host {
    /// Gives the keyboard to the console until the host is off or Ctrl-] is pressed (which pulls the plug). True when it
    /// went off by itself. Without a terminal on standard input it only waits.
    pub fn attach(&mut self) -> io::Result<bool> {
        let keyboard = Raw::new();
        if keyboard.is_some() {
            let mut keys = self.console().keys()?;
            thread::spawn(move || {
                let mut buffer = [0; 256];
                while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
                    if buffer[..count].contains(&LEAVE) {
                        let _ = keys.shutdown(std::net::Shutdown::Both);
                    } else if keys.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            });
        }
        let tape = self.console().tape();
        while tape.wait(super::secs(3600), |record| record.ended().then_some(())).is_err() {}
        self.kill();
        Ok(self.console().shows("reboot: Power down"))
    }
}

/// The terminal of standard input without echo, line editing and signals, until dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}
