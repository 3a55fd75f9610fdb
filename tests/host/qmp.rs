//! Orders to a running qemu (its machine protocol, JSON lines).

use serde_json::{Value, json};
use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

/// The control line of one qemu.
pub struct Qmp {
    line: BufReader<UnixStream>,
}

impl Qmp {
    /// Takes the line over and agrees on the protocol.
    pub fn new(line: UnixStream) -> io::Result<Self> {
        line.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut qmp = Self {
            line: BufReader::new(line),
        };
        qmp.read()?;
        qmp.order("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Gives one order and returns its answer.
    pub fn order(&mut self, order: &str, arguments: &Value) -> io::Result<Value> {
        writeln!(self.line.get_mut(), "{}", json!({ "execute": order, "arguments": arguments }))?;
        loop {
            let mut answer = self.read()?;
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("{order}: {error}")));
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    /// Waits for the event `name` of the device `id`.
    pub fn event(&mut self, name: &str, id: &str) -> io::Result<()> {
        loop {
            let message = self.read()?;
            if message["event"] == name && message["data"]["device"] == id {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.line.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}
