//! One run of qemu, from power-on to off.

use super::{
    console::Console,
    image::Image,
    patience,
    qmp::Qmp,
    shell::Shell,
    tape::{Missed, Tape},
    tpm,
};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{prctl, signal::Signal},
};
use std::{
    fs::{File, OpenOptions},
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Hears what a line says, byte by byte.
pub type Watcher = Box<dyn FnMut(&[u8]) + Send>;

/// How often a host is switched on whose kernel dies before it has started anything.
const TRIES: u32 = 3;
/// How systemd greets, in an initramfs of dracut's first.
const GREETINGS: [&str; 2] = ["Welcome to", "Booting initrd of"];
/// Until systemd greets, an initrd and what the scenario prepares in it included. It only ends the watch for a dead kernel.
const GREETING: Duration = Duration::from_secs(60);

/// How to start it.
pub struct Setup<'a> {
    /// The name that the log files get.
    pub name: &'a str,
    /// Kernel, and the speed of this machine.
    pub image: &'a Image,
    /// The initrd with what the scenario brings.
    pub initrd: &'a Path,
    /// Words for the kernel command line.
    pub kernel_arguments: &'a [String],
    /// Disks, in order: vda, vdb, …; true when nothing written is to last.
    pub disks: &'a [(PathBuf, bool)],
    /// Memory of the host.
    pub memory_mib: u32,
    /// The state of its TPM, where it has one.
    pub tpm: Option<&'a Path>,
    /// Sees every byte of the console as it comes.
    pub watcher: Watcher,
}

/// A running host.
pub struct Machine {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    /// ttyS0, where passphrases are asked for.
    pub console: Console,
    /// hvc0, a shell for a person.
    pub terminal: Console,
    /// ttyS1, the tests' own way in.
    pub shell: Shell,
    /// Hot-plugging.
    pub qmp: Qmp,
}

impl Machine {
    /// Switches it on, and returns when its kernel has started systemd. Emulated, a kernel that changes its own code while another
    /// processor runs it may die of that (`Oops: int3`), and so may the emulator; nothing of the host has run then, so it is switched on
    /// again.
    pub fn start(mut setup: Setup<'_>) -> io::Result<Self> {
        let watcher = Arc::new(Mutex::new(mem::replace(&mut setup.watcher, Box::new(|_| ()))));
        let mut tries = 1;
        loop {
            let heard = Arc::clone(&watcher);
            let watcher: Watcher = Box::new(move |bytes| heard.lock().unwrap_or_else(PoisonError::into_inner)(bytes));
            let started = Self::switch_on(&setup, watcher)?;
            let tape = started.console.tape();
            let greeted = tape.wait(patience(GREETING), |record| {
                GREETINGS.iter().any(|words| record.text().contains(words)).then_some(())
            });
            let died = matches!(greeted, Err(Missed::Ended)) && !tape.lock().text().contains("reboot: Power down");
            if !died || tries == TRIES {
                return Ok(started);
            }
            eprintln!(
                "{}: kernel or emulator died before it started anything; switched on again",
                setup.name
            );
            tries += 1;
        }
    }

    fn switch_on(setup: &Setup<'_>, watcher: Watcher) -> io::Result<Self> {
        let logs = setup.image.beside("logs")?;
        let log_path = |kind: &str| logs.join(format!("{}.{kind}.log", setup.name));
        let log = |kind: &str| append(&log_path(kind));

        let (console, console_end) = UnixStream::pair()?;
        let (shell, shell_end) = UnixStream::pair()?;
        let (terminal, terminal_end) = UnixStream::pair()?;
        let (control, control_end) = UnixStream::pair()?;
        let ends = [&console_end, &shell_end, &terminal_end, &control_end].map(AsRawFd::as_raw_fd);

        let mut command = Command::new("qemu-system-x86_64");
        let memory = setup.memory_mib.to_string();
        command.args(["-accel", &setup.image.accelerator()?, "-m", &memory]);
        command.args("-machine pc -cpu max -smp 2 -nodefaults -display none -no-user-config -no-reboot".split(' '));
        for (name, end) in ["console", "shell", "terminal", "control"].iter().zip(ends) {
            command.arg("-chardev").arg(format!("socket,id={name},fd={end}"));
        }
        command.args("-serial chardev:console -serial chardev:shell -mon chardev=control,mode=control".split(' '));
        command.args("-device virtio-serial-pci -device virtconsole,chardev=terminal".split(' '));
        for (path, snapshot) in setup.disks {
            let snapshot = if *snapshot { "on" } else { "off" };
            let path = path.display();
            command.arg("-drive").arg(format!(
                "file={path},format=qcow2,if=virtio,cache=unsafe,discard=unmap,snapshot={snapshot}"
            ));
        }
        command
            .arg("-kernel")
            .arg(setup.image.file("vmlinuz"))
            .arg("-initrd")
            .arg(setup.initrd);
        command.arg("-append").arg(setup.kernel_arguments.join(" "));
        if let Some(folder) = setup.tpm {
            command.args(tpm::start(folder)?);
        }
        command.stdin(Stdio::null()).stdout(log("qemu")?).stderr(log("qemu")?);
        end_with_us(&mut command, ends.to_vec());

        let start = Instant::now();
        let child = command.spawn()?;
        drop([console_end, shell_end, terminal_end, control_end].map(OwnedFd::from));

        let mut readers = Vec::new();
        let mut listen = |line: &UnixStream, kind: &str, watcher: Watcher| -> io::Result<Arc<Tape>> {
            let tape = Arc::new(Tape::new(start));
            let (line, log, to) = (line.try_clone()?, log(kind)?, Arc::clone(&tape));
            readers.push(thread::spawn(move || to.record(line, log, watcher)));
            Ok(tape)
        };
        let console_tape = listen(&console, "console", watcher)?;
        let shell_tape = listen(&shell, "shell-line", Box::new(|_| ()))?;
        let terminal_tape = listen(&terminal, "terminal", Box::new(|_| ()))?;
        let started = Self {
            console: Console::new("console", console_tape, console, log_path("console")),
            terminal: Console::new("terminal", terminal_tape, terminal, log_path("terminal")),
            shell: Shell::new(shell_tape, shell, log("shell")?),
            qmp: Qmp::new(control).map_err(|error| io::Error::other(format!("{error}; see {}", log_path("qemu").display())))?,
            child,
            readers,
        };
        Ok(started)
    }

    /// Pulls the plug. What the host wrote before stays written.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.reap();
    }

    /// To be called when the console has ended.
    pub fn reap(&mut self) {
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Lets `command` inherit these descriptors alone, and end with this thread.
pub fn end_with_us(command: &mut Command, inherited: Vec<RawFd>) {
    let keep = move || {
        for &end in &inherited {
            // SAFETY: the descriptors are owned by the caller of `spawn`, which outlives this call.
            let end = unsafe { std::os::fd::BorrowedFd::borrow_raw(end) };
            fcntl(end.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        Ok(())
    };
    // SAFETY: between fork and exec it makes two kinds of system call and touches no lock and no memory of others.
    unsafe { command.pre_exec(keep) };
}
