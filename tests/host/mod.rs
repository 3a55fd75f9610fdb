//! A real host for tests: Debian in qemu, with encrypted volumes and guests, used as a person and a power switch would.
//!
//! ```ignore
//! let mut host = Host::builder("first_try").tree(installed).file("/etc/virt-unlock/config.toml", CONFIG)
//!     .enable("virt-unlock.service").boot();
//! host.console().expect("Passphrase for volume mail", secs(60));
//! host.console().type_line("correct horse");
//! assert_eq!(host.run("virsh domstate mailserver").trim(), "running");
//! host.power_off();
//! assert_eq!(host.examine().marker("mailserver", "off"), 1);
//! ```
//! Every wait has a limit; one that passes ends the test with the last lines of the console and the place of the whole log.

#![allow(dead_code, unused_imports, reason = "each program that includes this uses a part of it")]

mod archive;
mod attach;
mod console;
mod disks;
mod examine;
mod image;
mod initramfs;
mod machine;
mod qmp;
mod shell;
mod tape;
mod tpm;

pub use attach::show;
pub use console::{Console, Seen};
pub use examine::Examination;
pub use image::{Daemons, Suite, Variant};
pub use shell::Output;

use archive::Archive;
use image::Image;
use machine::{Machine, Setup, Watcher};
use serde_json::json;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
    time::Duration,
};
use tape::Missed;

/// From power-on until the tests' shell answers.
const BOOT: Duration = Duration::from_secs(90);
/// From the order to power off until it is off.
const POWER_OFF: Duration = Duration::from_secs(120);
/// What a command in the shell gets when nothing else is said.
const COMMAND: Duration = Duration::from_secs(60);
/// 200 columns, or systemd shortens the names of units.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 root=/dev/vda rw panic=-1 loglevel=4 systemd.show_status=yes \
    systemd.tty.columns.console=200 systemd.tty.rows.console=50 mitigations=off tsc=reliable";

/// The folder of the host's image; what is made from it and is expensive may be kept there.
pub fn image_folder() -> PathBuf {
    Image::get(Variant::chosen()).file("")
}

/// Whole seconds.
pub const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A time limit as it holds on this machine: a slow one sets `HOST_PATIENCE=3` for three times as much everywhere.
fn patience(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    limit
        * *FACTOR.get_or_init(|| {
            std::env::var("HOST_PATIENCE")
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(1)
        })
}

/// A host that is still to be booted.
pub struct Builder {
    name: String,
    variant: Variant,
    bare: Option<&'static str>,
    archive: Archive,
    prepare: String,
    kernel_arguments: Vec<String>,
    memory_mib: u32,
    watcher: Watcher,
    more_disks: Vec<PathBuf>,
    tpm: bool,
}

impl Builder {
    /// A bare host of this suite of Debian instead of the one that has all that we need; the data disk is the same.
    pub fn bare(mut self, suite: &'static str) -> Self {
        self.bare = Some(suite);
        self
    }

    /// Another host than the one that the environment names.
    pub fn on(mut self, variant: Variant) -> Self {
        self.variant = variant;
        self
    }

    /// A file in the host, readable by all.
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.archive.host_file(path, content, 0o644);
        self
    }

    /// A program in the host.
    pub fn program(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.archive.host_file(path, content, 0o755);
        self
    }

    /// All below `folder`, as `make install DESTDIR=folder` leaves it.
    pub fn tree(mut self, folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref();
        self.archive
            .host_tree(folder)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
        self
    }

    /// `systemctl enable`, before the host boots.
    pub fn enable(self, unit: &str) -> Self {
        self.prepare(&format!("systemctl --quiet enable {unit}"))
    }

    /// Any commands of bash, run in the host's root folder before the host boots; no daemon runs then.
    pub fn prepare(mut self, commands: &str) -> Self {
        self.prepare.push_str(commands);
        self.prepare.push('\n');
        self
    }

    /// One more word on the kernel command line, at every boot.
    pub fn kernel_argument(mut self, word: &str) -> Self {
        self.kernel_arguments.push(word.to_owned());
        self
    }

    /// Memory of the host instead of 1536 MiB.
    pub fn memory_mib(mut self, count: u32) -> Self {
        self.memory_mib = count;
        self
    }

    /// Hears every byte of the first boot's console as it comes (the demo shows it to a person).
    pub fn watch(mut self, watcher: impl FnMut(&[u8]) + Send + 'static) -> Self {
        self.watcher = Box::new(watcher);
        self
    }

    /// Makes the disks, switches the host on, and returns while it boots.
    pub fn power_on(self) -> Host {
        let name = self.name.clone();
        self.start()
            .unwrap_or_else(|error| panic!("cannot start the host {name}: {error}"))
    }

    /// Makes the disks with all that the scenario brings, and leaves the host off.
    pub fn off(self) -> Host {
        // proc(5), sysrq-trigger: systemctl does not switch off from a chroot.
        let off = "mount -t proc proc /proc; sync; echo u >/proc/sysrq-trigger; echo o >/proc/sysrq-trigger; exec sleep 60";
        let mut host = self.prepare(off).power_on();
        host.await_off(BOOT);
        host
    }

    /// Switches the host on and waits until its shell answers, early in the boot.
    pub fn boot(self) -> Host {
        let host = self.power_on();
        host.await_shell();
        host
    }

    fn start(mut self) -> io::Result<Host> {
        let standard = Image::get(self.variant);
        let image = self.bare.map_or(standard, Image::bare);
        let logs = image.beside("logs")?;
        for kind in ["console", "shell", "shell-line", "terminal", "qemu"] {
            let _ = fs::remove_file(logs.join(format!("{}.{kind}.log", self.name)));
        }
        let folder = Folder::new(image.beside("run")?.join(format!("{}-{}", self.name, process::id())))?;
        let mut disks = Vec::new();
        for (disk, image) in [("root", image), ("data", standard)] {
            disks.push(folder.overlay(image, disk)?);
        }
        for (number, base) in self.more_disks.iter().enumerate() {
            let overlay = folder.0.join(format!("disk{number}.qcow2"));
            image::overlay(base, &overlay)?;
            disks.push(overlay);
        }
        // A bare host has not got the programs for that.
        let examined_from = match self.bare {
            Some(_) => Some(folder.overlay(standard, "root-examined")?),
            None => None,
        };
        if !self.prepare.is_empty() {
            self.archive.initrd_file("prepare", self.prepare);
        }
        let initrd = folder.initrd(image, &self.archive)?;
        let tpm = self.tpm.then(|| tpm::folder(&folder.0));
        let machine = Machine::start(Setup {
            name: &self.name,
            image,
            initrd: &initrd,
            kernel_arguments: &self.kernel_arguments,
            disks: &disks.iter().map(|disk| (disk.clone(), false)).collect::<Vec<_>>(),
            memory_mib: self.memory_mib,
            tpm: tpm.as_deref(),
            watcher: self.watcher,
        })?;
        Ok(Host {
            machine,
            image,
            standard,
            name: self.name,
            variant: self.variant,
            kernel_arguments: self.kernel_arguments,
            memory_mib: self.memory_mib,
            disks,
            folder,
            initramfs: None,
            examined_from,
            tpm,
        })
    }
}

/// A host with its disks, running or off.
pub struct Host {
    machine: Machine,
    image: &'static Image,
    /// What `examine` boots: the image itself, but for a bare host.
    standard: &'static Image,
    name: String,
    variant: Variant,
    kernel_arguments: Vec<String>,
    memory_mib: u32,
    disks: Vec<PathBuf>,
    folder: Folder,
    /// What is booted instead of the image's own initrd.
    initramfs: Option<PathBuf>,
    /// The root disk that `examine` runs from, where it is another than the host's.
    examined_from: Option<PathBuf>,
    tpm: Option<PathBuf>,
}

impl Host {
    /// Begins a host; `name` names its logs, so it is the test's own.
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            variant: Variant::chosen(),
            bare: None,
            archive: Archive::default(),
            prepare: String::new(),
            kernel_arguments: KERNEL_ARGUMENTS.split_whitespace().map(str::to_owned).collect(),
            memory_mib: 1536,
            watcher: Box::new(|_| ()),
            more_disks: Vec::new(),
            tpm: false,
        }
    }

    /// Which host it is.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// ttyS0: boot messages, questions, the login prompt.
    pub fn console(&self) -> &Console {
        &self.machine.console
    }

    /// hvc0: a login shell of root's, there all the time.
    pub fn terminal(&self) -> &Console {
        &self.machine.terminal
    }

    /// Waits until the tests' shell answers (about 4 s after power-on).
    #[track_caller]
    pub fn await_shell(&self) {
        match self.machine.shell.ready(BOOT) {
            Ok(()) => (),
            Err(Missed::Late) => self.console().fail("no shell on ttyS1"),
            Err(Missed::Ended) => self.console().fail("the host went off before there was a shell on ttyS1"),
        }
    }

    /// Waits for the shell of the kernel that this one hands the machine over to (kexec).
    #[track_caller]
    pub fn await_next_kernel(&self, limit: Duration) {
        if let Err(missed) = self.machine.shell.ready_again(limit) {
            self.console().fail(&format!("no shell of a next kernel: {missed:?}"));
        }
    }

    /// Runs a command as root, whatever comes of it.
    #[track_caller]
    pub fn shell(&self, command: &str) -> Output {
        self.shell_within(command, COMMAND)
    }

    /// Runs a command as root with a time limit of its own; status 124 says that the limit ended it.
    #[track_caller]
    pub fn shell_within(&self, command: &str, limit: Duration) -> Output {
        self.machine
            .shell
            .run(command, limit)
            .unwrap_or_else(|error| self.console().fail(&error))
    }

    /// Runs a command that must succeed, and returns what it printed.
    #[track_caller]
    pub fn run(&self, command: &str) -> String {
        let output = self.shell(command);
        if output.status != 0 {
            self.console().fail(&format!("{command:?} ended with {output}"));
        }
        output.text
    }

    /// Waits until `command` succeeds in the host. It is tried there, so that what it asks stands still meanwhile, and with pauses as
    /// long as the try was, so that an emulated host has time for what is waited for.
    #[track_caller]
    pub fn until(&self, command: &str, limit: Duration) -> String {
        let limit = patience(limit);
        let pause = "sleep $(((now=${EPOCHREALTIME/[.,]/}) - at + 200000))e-6; at=${EPOCHREALTIME/[.,]/}";
        let loops = format!("at=${{EPOCHREALTIME/[.,]/}}; until {command}; do {pause}; done");
        let output = self.shell_within(&loops, limit);
        if output.status != 0 {
            self.console()
                .fail(&format!("{command:?} did not succeed within {limit:?}: {output}"));
        }
        output.text
    }

    /// Orders an orderly power-off and waits for its end.
    #[track_caller]
    pub fn power_off(&mut self) {
        self.run("systemctl --no-block poweroff");
        self.await_off(POWER_OFF);
    }

    /// Waits for an orderly power-off that somebody ordered.
    #[track_caller]
    pub fn await_off(&mut self, limit: Duration) {
        let ended = self
            .console()
            .tape()
            .wait(patience(limit), |record| record.ended().then_some(()));
        if ended.is_err_and(|missed| missed == Missed::Late) {
            self.console().fail(&format!("still on after {limit:?}"));
        }
        self.machine.reap();
        self.console().seen("reboot: Power down");
    }

    /// Pulls the plug.
    pub fn kill(&mut self) {
        self.machine.kill();
    }

    /// Switches the same disks on again and waits for the shell; the host must be off. Consoles begin anew, log files go on.
    #[track_caller]
    pub fn boot_again(&mut self) {
        self.power_on_again();
        self.await_shell();
    }

    /// Switches the same disks on again and returns while they boot.
    #[track_caller]
    pub fn power_on_again(&mut self) {
        let disks: Vec<_> = self.disks.iter().map(|disk| (disk.clone(), false)).collect();
        self.machine.kill();
        self.machine = self
            .machine_on(&disks, &Archive::default(), "")
            .unwrap_or_else(|error| panic!("cannot boot again: {error}"));
    }

    /// Plugs in a new empty disk; inside it is `/dev/disk/by-id/virtio-NAME`.
    #[track_caller]
    pub fn add_drive(&mut self, name: &str, mib: u32) {
        let path = self.folder.0.join(format!("{name}.raw"));
        let made = image::qemu_img(&["create", "-q", "-f", "raw", &path.to_string_lossy(), &format!("{mib}M")]);
        made.unwrap_or_else(|error| panic!("no disk {name}: {error}"));
        self.plug_drive(name, &path);
    }

    /// Plugs in a disk that was there before and was removed.
    #[track_caller]
    pub fn add_drive_again(&mut self, name: &str) {
        let path = self.folder.0.join(format!("{name}.raw"));
        self.plug_drive(name, &path);
    }

    fn plug_drive(&mut self, name: &str, path: &Path) {
        let node = format!("node-{name}");
        let qmp = &mut self.machine.qmp;
        let file = json!({ "driver": "file", "filename": path });
        let plugged = qmp
            .order("blockdev-add", &json!({ "node-name": node, "driver": "raw", "file": file }))
            .and_then(|_| {
                qmp.order(
                    "device_add",
                    &json!({ "driver": "virtio-blk-pci", "id": name, "drive": node, "serial": name }),
                )
            });
        if let Err(error) = plugged {
            self.console().fail(&format!("cannot plug in the disk {name}: {error}"));
        }
    }

    /// Pulls a disk out and waits until the host has let it go.
    #[track_caller]
    pub fn remove_drive(&mut self, name: &str) {
        let qmp = &mut self.machine.qmp;
        let removed = qmp
            .order("device_del", &json!({ "id": name }))
            .and_then(|_| qmp.event("DEVICE_DELETED", name))
            .and_then(|()| qmp.order("blockdev-del", &json!({ "node-name": format!("node-{name}") })));
        if let Err(error) = removed {
            self.console().fail(&format!("cannot pull out the disk {name}: {error}"));
        }
    }

    /// Looks at the disks of a host that is off: what the guests wrote, how the filesystem was left.
    #[track_caller]
    pub fn examine(&self) -> Examination {
        self.examine_with("true")
    }

    /// The same, and runs commands of bash there: root is the host's root disk, `/dev/mapper/{mail,vm,stub}` are open, the
    /// filesystem of `vm` is at `/run/vm`; nothing they change lasts.
    #[track_caller]
    pub fn examine_with(&self, commands: &str) -> Examination {
        let mut disks: Vec<_> = self.disks.iter().map(|disk| (disk.clone(), true)).collect();
        if let Some(clear) = &self.examined_from {
            disks[0].0.clone_from(clear);
        }
        let mut archive = Archive::default();
        archive.initrd_file("provision/run", include_str!("examine.sh"));
        archive.initrd_file("provision/script", commands);
        let mut machine = self
            .machine_on(&disks, &archive, ".examine")
            .unwrap_or_else(|error| panic!("cannot examine the disks: {error}"));
        machine.console.expect("@end\n", BOOT);
        let text = machine.console.text();
        machine.kill();
        Examination::new(text)
    }

    fn machine_on(&self, disks: &[(PathBuf, bool)], archive: &Archive, suffix: &str) -> io::Result<Machine> {
        let image = if suffix.is_empty() { self.image } else { self.standard };
        // What looks at the disks afterwards is the image's own.
        let initrd = match &self.initramfs {
            Some(initramfs) if suffix.is_empty() => initramfs.clone(),
            _ => self.folder.initrd(image, archive)?,
        };
        Machine::start(Setup {
            name: &format!("{}{suffix}", self.name),
            image,
            initrd: &initrd,
            kernel_arguments: &self.kernel_arguments,
            disks,
            memory_mib: self.memory_mib,
            tpm: self.tpm.as_deref(),
            watcher: Box::new(|_| ()),
        })
    }
}

/// A folder that is gone with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new(path: PathBuf) -> io::Result<Self> {
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// A disk of its own for a host, that begins as the image's root or data disk is.
    fn overlay(&self, image: &Image, disk: &str) -> io::Result<PathBuf> {
        let overlay = self.0.join(format!("{disk}.qcow2"));
        let base = disk.split('-').next().unwrap_or(disk);
        image::overlay(&image.file(&format!("{base}.img")), &overlay)?;
        Ok(overlay)
    }

    /// The image's initrd with `archive` behind it.
    fn initrd(&self, image: &Image, archive: &Archive) -> io::Result<PathBuf> {
        let mut bytes = fs::read(image.file("initrd"))?;
        bytes.extend(archive.pack());
        let path = self.0.join("initrd");
        fs::write(&path, bytes)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
