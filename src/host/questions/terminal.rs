//! Asking in this terminal: as systemctl does while it waits, by an agent of systemd's that answers every open question here
//! (systemd src/shared/ask-password-agent.c).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

use crate::host::tool::Tool;

/// How long the agent may need to let go of the terminal. One of systemd 252 that asks a question of somebody else does not
/// hear that it is to end.
const GRACE: Duration = Duration::from_secs(2);

/// An agent at this terminal, until it is dropped: the terminal is then as it was.
pub(super) struct Agent {
    tool: Tool,
    terminal: File,
    settings: Termios,
}

impl Agent {
    /// Starts one. `None`: this process has no terminal.
    pub(super) fn start() -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        // Not to be made our controlling terminal if it is not, see open(2).
        options.read(true).write(true).custom_flags(libc::O_NOCTTY);
        let Ok(terminal) = options.open("/dev/tty") else {
            return Ok(None);
        };
        let settings = tcgetattr(&terminal)?;
        let mut command = Command::new("systemd-tty-ask-password-agent");
        // It stays in our process group: one in the background may not read from the terminal.
        command
            .arg("--watch")
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?)
            .stderr(Stdio::from(terminal.try_clone()?));
        let tool = Tool::spawn(&mut command, GRACE)?;
        Ok(Some(Self {
            tool,
            terminal,
            settings,
        }))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tool.stop();
        // One that was killed in the middle of a question leaves the terminal without echo, the cursor behind its words.
        let changed = tcgetattr(&self.terminal).is_ok_and(|now| now != self.settings);
        // Who sets a terminal from the background is stopped, see tcsetattr(3).
        let ours = tcgetpgrp(&self.terminal).is_ok_and(|group| group == getpgrp());
        if changed && ours && tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.settings).is_ok() {
            let _ = self.terminal.write_all(b"\n");
        }
    }
}
