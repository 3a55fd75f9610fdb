//! Processes that have something open on a device or on its filesystem. Root sees all of them, others see their own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Kernel, path_of};
use crate::facts::DevNum;
use crate::host::User;

/// How long the processes may be looked at. A server that died can hold a look at one of its files for ever, in spite of all care;
/// what was found by then is told, and the thread is left to its fate.
const LIMIT: Duration = Duration::from_secs(3);
/// How many threads may be left so. After that, processes are not looked at any more.
const LEFT: usize = 4;
/// How much of a process's map is read, in bytes; a line has about 100.
const MAPS: u64 = 8 << 20;

/// What makes a process a user of the device.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    /// The device, and the numbers that its filesystem goes by.
    pub numbers: BTreeSet<DevNum>,
    /// The mounts of its filesystem, in whichever namespace.
    pub mounts: BTreeSet<u64>,
    /// Every mount point, and whether a server is behind it that may be dead; empty: none has one.
    pub places: BTreeMap<PathBuf, bool>,
}

/// What statx(2) tells of a file.
struct Status {
    device: DevNum,
    /// The device that it is the node of.
    node: Option<DevNum>,
    mount: Option<u64>,
}

impl Kernel {
    /// The processes but ourselves that fit, each once with the first thing found.
    pub(super) fn search(&self, search: Search) -> Vec<User> {
        let left = || self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left().retain(|thread| !thread.is_finished());
        if left().len() >= LEFT {
            return Vec::new();
        }
        let (proc, pids) = (self.at("/proc"), self.pids());
        let (found, results) = mpsc::channel();
        let begun = thread::Builder::new().name("processes".to_owned()).spawn(move || {
            let own = i32::try_from(std::process::id()).unwrap_or(0);
            for pid in pids.into_iter().filter(|pid| *pid != own) {
                if let Some(user) = search.look_at(&proc, pid)
                    && found.send(user).is_err()
                {
                    return;
                }
            }
        });
        let Ok(thread) = begun else { return Vec::new() };
        let deadline = Instant::now() + LIMIT;
        let mut users = Vec::new();
        loop {
            match results.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(user) => users.push(user),
                Err(RecvTimeoutError::Disconnected) => return users,
                Err(RecvTimeoutError::Timeout) => {
                    left().push(thread);
                    return users;
                }
            }
        }
    }
}

impl Kernel {
    /// A process that hangs may keep its arguments to itself: who asks is not kept by that.
    pub(super) fn guests_by_their_words(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let (proc, pids) = (self.at("/proc"), self.pids());
        let (found, results) = mpsc::channel();
        let look = move || {
            let folders = pids.iter().map(|pid| proc.join(pid.to_string()));
            let guests = folders.filter(|folder| !is_anybody_s(&read(&folder.join("cgroup"))));
            for guest in guests.filter_map(|folder| guest_of(&folder.join("cmdline"))) {
                if found.send(guest).is_err() {
                    return;
                }
            }
        };
        if thread::Builder::new().name("guests".to_owned()).spawn(look).is_err() {
            return BTreeSet::new();
        }
        let deadline = Instant::now() + LIMIT;
        let next = || results.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
        std::iter::from_fn(next).filter(|name| names.contains(name)).collect()
    }
}

/// Whether a process runs in somebody's session, by its control group: there anybody may run anything, by any name.
fn is_anybody_s(cgroup: &str) -> bool {
    cgroup.lines().any(|line| line.contains(":/user.slice/"))
}

impl Search {
    fn look_at(&self, proc: &Path, pid: i32) -> Option<User> {
        let folder = proc.join(pid.to_string());
        let (path, how) = self.what(&folder)?;
        let cgroup = read(&folder.join("cgroup"));
        let guest = || machine_of(&cgroup).or_else(|| guest_of(&folder.join("cmdline")));
        Some(User::Process {
            pid,
            comm: read(&folder.join("comm")),
            path,
            how,
            machine: if is_anybody_s(&cgroup) { None } else { guest() },
        })
    }

    fn what(&self, folder: &Path) -> Option<(PathBuf, &'static str)> {
        let files = fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
        let file = files.map(|entry| entry.path()).find_map(|link| self.fits(&link));
        let file = file.map(|path| (path, "file"));
        file.or_else(|| Some((self.fits(&folder.join("cwd"))?, "working directory")))
            .or_else(|| Some((self.fits(&folder.join("root"))?, "root")))
            .or_else(|| Some((self.in_maps(&folder.join("maps"))?, "map")))
    }

    /// Where a link of `/proc/PID` leads to, if that is on the device. Sockets, pipes and the like have no path.
    fn fits(&self, link: &Path) -> Option<PathBuf> {
        let path = fs::read_link(link).ok()?;
        if !path.is_absolute() || self.is_at_a_server(&path) {
            return None;
        }
        let status = status(link)?;
        let fits = self.numbers.contains(&status.device)
            || status.node.is_some_and(|node| self.numbers.contains(&node))
            || status.mount.is_some_and(|mount| self.mounts.contains(&mount));
        fits.then_some(path)
    }

    /// Whether a path lies in a filesystem that asks a server, which must not be waited for.
    fn is_at_a_server(&self, path: &Path) -> bool {
        path.ancestors()
            .find_map(|above| self.places.get(above))
            .copied()
            .unwrap_or(false)
    }

    fn in_maps(&self, maps: &Path) -> Option<PathBuf> {
        let mut text = Vec::new();
        File::open(maps).ok()?.take(MAPS).read_to_end(&mut text).ok()?;
        text.split(|byte| *byte == b'\n').find_map(|line| {
            // address perms offset dev inode path, proc_pid_maps(5)
            let mut fields = line.splitn(6, |byte| *byte == b' ');
            let (major, minor) = str::from_utf8(fields.nth(3)?).ok()?.split_once(':')?;
            let number = DevNum {
                major: u64::from_str_radix(major, 16).ok()?,
                minor: u64::from_str_radix(minor, 16).ok()?,
            };
            let path = fields.nth(1)?.trim_ascii_start();
            (self.numbers.contains(&number) && path.starts_with(b"/")).then(|| path_of(path.to_vec()))
        })
    }
}

/// Whether a filesystem of this type may wait for a server or for a process.
pub(super) fn is_remote(fstype: &str) -> bool {
    const REMOTE: [&str; 11] = [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "9p",
        "afs",
        "glusterfs",
        "ocfs2",
        "lustre",
        "autofs",
    ];
    REMOTE.contains(&fstype) || fstype.starts_with("fuse")
}

/// The scope of the guest that a process belongs to, from its control group.
fn machine_of(cgroup: &str) -> Option<String> {
    let mut parts = cgroup.split(['/', '\n']);
    parts
        .find(|part| part.starts_with("machine-") && part.strip_suffix(".scope").is_some())
        .map(str::to_owned)
}

/// The guest that a process runs by its own words, `-name guest=NAME,…` (qemu(1)): where systemd-machined is not installed, libvirt
/// makes no scopes.
fn guest_of(cmdline: &Path) -> Option<String> {
    let line = fs::read(cmdline).ok()?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let program = Path::new(OsStr::from_bytes(words.first()?)).file_name()?.to_str()?;
    if !program.starts_with("qemu-system-") && program != "qemu-kvm" {
        return None;
    }
    let place = words.iter().position(|word| *word == b"-name")?;
    let name = String::from_utf8_lossy(words.get(place + 1)?).into_owned();
    let name = name.strip_prefix("guest=").unwrap_or(&name);
    Some(name.split(',').next().unwrap_or(name).to_owned())
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default())
        .trim_end()
        .to_owned()
}

/// A file's status from what the kernel has at hand: no automount is set off, and no server asked where that can be avoided.
fn status(path: &Path) -> Option<Status> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let flags = libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the structure has only integers, for which zero is a value.
    let mut buffer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte, the buffer is one statx structure, and both live through the call.
    let result = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            libc::STATX_TYPE | libc::STATX_MNT_ID,
            &raw mut buffer,
        )
    };
    if result != 0 {
        return None;
    }
    let number = |major: u32, minor: u32| DevNum {
        major: major.into(),
        minor: minor.into(),
    };
    let is_node = u32::from(buffer.stx_mode) & libc::S_IFMT == libc::S_IFBLK;
    Some(Status {
        device: number(buffer.stx_dev_major, buffer.stx_dev_minor),
        node: is_node.then(|| number(buffer.stx_rdev_major, buffer.stx_rdev_minor)),
        mount: (buffer.stx_mask & libc::STATX_MNT_ID != 0).then_some(buffer.stx_mnt_id),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::sync::{Arc, Mutex};

    use super::super::made_up::Machine;
    use super::*;

    /// A process that runs until it is dropped, away from every disk but where it is told to be.
    struct Sleeper(Child);

    impl Sleeper {
        fn new(change: impl FnOnce(&mut Command) -> &mut Command) -> Self {
            let mut command = Command::new("sleep");
            let quiet = command
                .arg("1000")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            Self(change(quiet.current_dir("/proc")).spawn().unwrap())
        }

        /// What the search says of it.
        fn in_search(&self, search: &Search) -> Option<(PathBuf, &'static str)> {
            let own = i32::try_from(self.0.id()).unwrap();
            Kernel::new().search(search.clone()).into_iter().find_map(|user| match user {
                User::Process {
                    pid, comm, path, how, ..
                } if pid == own => {
                    assert_eq!(comm, "sleep");
                    Some((path, how))
                }
                _ => None,
            })
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn by_number(number: DevNum) -> Search {
        Search {
            numbers: [number].into(),
            ..Search::default()
        }
    }

    #[test]
    fn a_real_process_is_found_by_its_working_directory_and_by_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().canonicalize().unwrap();
        let file = here.join("disk");
        let status = status(&here).unwrap();
        let by_mount = Search {
            mounts: status.mount.into_iter().collect(),
            ..Search::default()
        };
        let inside = Sleeper::new(|command| command.current_dir(&here));
        let open = Sleeper::new(|command| command.stdin(File::create(&file).unwrap()));
        for search in [by_number(status.device), by_mount] {
            assert_eq!(inside.in_search(&search), Some((here.clone(), "working directory")));
            assert_eq!(open.in_search(&search), Some((file.clone(), "file")));
        }
        let nowhere = DevNum { major: 4095, minor: 1 };
        assert_eq!(inside.in_search(&by_number(nowhere)), None);
    }

    #[test]
    fn we_ourselves_are_never_among_them() {
        let own = i32::try_from(std::process::id()).unwrap();
        let search = by_number(status(Path::new("/proc/self/exe")).unwrap().device);
        assert!(search.look_at(Path::new("/proc"), own).is_some());
        let users = Kernel::new().search(search);
        assert!(
            !users
                .iter()
                .any(|user| matches!(user, User::Process { pid, .. } if *pid == own))
        );
    }

    /// The number and the folder of a made-up machine that stands for the volume's filesystem.
    fn machine() -> (Machine, Search) {
        let machine = Machine::new();
        machine.write("/srv/vm/disk", "");
        machine.write("/proc/42/comm", "qemu-system-x86\n");
        let device = status(&machine.at("/srv/vm")).unwrap().device;
        (machine, by_number(device))
    }

    #[test]
    fn a_guest_s_process_tells_its_machine() {
        let (machine, search) = machine();
        machine.link("/proc/42/fd/3", "socket:[77]");
        machine.link("/proc/42/fd/4", machine.at("/srv/vm/disk"));
        machine.write(
            "/proc/42/cgroup",
            "0::/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/emulator\n",
        );
        let expected = User::Process {
            pid: 42,
            comm: "qemu-system-x86".to_owned(),
            path: machine.at("/srv/vm/disk"),
            how: "file",
            machine: Some("machine-qemu\\x2d1\\x2dweb.scope".to_owned()),
        };
        assert_eq!(machine.kernel().search(search), [expected]);
    }

    #[test]
    fn a_guest_without_a_machine_tells_its_name() {
        let (machine, _) = machine();
        let device = status(&machine.at("/srv/vm")).unwrap().device;
        machine.link("/proc/42/fd/4", machine.at("/srv/vm/disk"));
        machine.write("/proc/42/cgroup", "0::/system.slice/libvirtd.service\n");
        let of = |cmdline: &str| {
            machine.write("/proc/42/cmdline", cmdline);
            match &machine.kernel().search(by_number(device))[..] {
                [User::Process { machine, .. }] => machine.clone(),
                other => panic!("{other:?}"),
            }
        };
        let names = BTreeSet::from(["web".to_owned(), "db".to_owned()]);
        let running = || machine.kernel().guests_by_their_words(&names).into_iter().collect::<Vec<_>>();
        let qemu = "/usr/bin/qemu-system-x86_64\0-name\0guest=web,debug-threads=on\0-S\0";
        assert_eq!(of(qemu), Some("web".to_owned()));
        assert_eq!(running(), ["web"]);
        assert_eq!(of("qemu-img\0-name\0guest=web\0"), None);
        for anybody_s in ["session-4.scope", "user@1000.service/app.slice/machine-web.scope"] {
            machine.write("/proc/42/cgroup", format!("0::/user.slice/user-1000.slice/{anybody_s}\n"));
            assert_eq!((of(qemu), running().len()), (None, 0), "{anybody_s}");
        }
    }

    #[test]
    fn root_folders_and_maps_count() {
        let (machine, search) = machine();
        machine.link("/proc/42/cwd", "/proc");
        let maps = "55d0-55d1 r--p 00000000 fd:1f 12   /usr/bin/x y\n7f-80 rw-p 00000000 00:00 0 \n81-82 r--p 0 00:2d 9 /srv/b\n";
        machine.write("/proc/42/maps", maps);
        let what = |search: &Search| search.what(&machine.at("/proc/42"));
        assert_eq!(what(&search), None);
        let mapped = by_number(DevNum {
            major: 0xfd,
            minor: 0x1f,
        });
        assert_eq!(what(&mapped), Some(("/usr/bin/x y".into(), "map")));
        assert_eq!(what(&by_number(DevNum { major: 0, minor: 0 })), None, "memory without a file");
        machine.link("/proc/42/root", machine.at("/srv/vm"));
        assert_eq!(what(&search), Some((machine.at("/srv/vm"), "root")));
    }

    #[test]
    fn files_at_a_server_are_not_touched_but_a_volume_mounted_in_there_is() {
        let (machine, mut search) = machine();
        machine.link("/proc/42/fd/4", machine.at("/srv/vm/disk"));
        let what = |search: &Search| search.what(&machine.at("/proc/42")).map(|(_, how)| how);
        search.places = [(machine.at("/srv"), true), ("/".into(), false)].into();
        assert_eq!(what(&search), None);
        search.places.insert(machine.at("/srv/vm"), false);
        assert_eq!(what(&search), Some("file"));
        assert!(is_remote("nfs4") && is_remote("fuse.sshfs") && !is_remote("ext4"));
    }

    #[test]
    fn searches_that_never_came_back_are_not_joined_by_more() {
        let (machine, search) = machine();
        machine.link("/proc/42/cwd", machine.at("/srv/vm"));
        let kernel = machine.kernel();
        let (end, ended) = mpsc::channel::<()>();
        let ended = Arc::new(Mutex::new(ended));
        for _ in 0..LEFT {
            let ended = Arc::clone(&ended);
            let stuck = thread::spawn(move || ended.lock().unwrap().recv().unwrap_or(()));
            kernel.left.lock().unwrap().push(stuck);
        }
        assert_eq!(kernel.search(search.clone()), []);
        drop(end);
        while kernel.left.lock().unwrap().iter().any(|stuck| !stuck.is_finished()) {
            thread::yield_now();
        }
        assert_eq!(kernel.search(search).len(), 1);
        assert!(kernel.left.lock().unwrap().is_empty(), "one that came back is not left");
    }
}
