//! News of block devices and mounts: the kernel's and udev's messages on a netlink socket, and the list of mounts, which can be
//! polled for changes (`proc_pid_mountinfo(5)`).
//!
//! Each thread has descriptors of its own, kept from one wait to the next, so that what happens between two waits ends the second
//! one at once.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};

use crate::cancel::{Cancel, poll_for};

/// The kernel's own messages: a device is there, its node too.
const KERNEL: u32 = 1;
/// udev's messages: its rules are through, links and database are written (`MONITOR_GROUP_UDEV` in systemd). Sent for private
/// mappings too.
const UDEV: u32 = 2;
/// More than the kernel (`UEVENT_BUFFER_SIZE`, 2 KiB) or udev sends at once.
const MESSAGE: usize = 16 << 10;

thread_local! {
    static NEWS: RefCell<News> = const { RefCell::new(News { devices: None, mounts: None }) };
}

/// Waits until a block device or a mount may have come or gone, `limit` is over, or `cancel` is raised.
///
/// A thread's first call comes back at once: what happened before it listened can only be looked at. Where nothing can be listened
/// to (no permission, no descriptors), only the limit and the flag end the wait.
pub fn wait_for_change(limit: Duration, cancel: &Cancel) {
    NEWS.with_borrow_mut(|news| {
        if !news.listen() {
            news.wait(limit, cancel);
        }
    });
}

/// Where news comes from.
#[derive(Default)]
struct News {
    devices: Option<OwnedFd>,
    mounts: Option<OwnedFd>,
}

impl News {
    /// Opens what is not open yet. True: it listens to more than before.
    fn listen(&mut self) -> bool {
        let mut more = false;
        if self.devices.is_none() {
            self.devices = listen_to_devices().ok();
            more |= self.devices.is_some();
        }
        if self.mounts.is_none() {
            self.mounts = File::open("/proc/self/mountinfo").ok().map(OwnedFd::from);
            more |= self.mounts.is_some();
        }
        more
    }

    fn wait(&self, limit: Duration, cancel: &Cancel) {
        let deadline = Instant::now() + limit;
        loop {
            let mut fds = vec![(cancel.as_fd(), PollFlags::POLLIN)];
            // This file can always be read: only POLLPRI and POLLERR tell of a change.
            fds.extend(self.mounts.as_ref().map(|mounts| (mounts.as_fd(), PollFlags::POLLPRI)));
            let quiet = fds.len();
            fds.extend(self.devices.as_ref().map(|devices| (devices.as_fd(), PollFlags::POLLIN)));
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(ready) = poll_for(&fds, Some(left)) else {
                // Not to spin: what cannot be polled is waited out.
                cancel.wait(left);
                return;
            };
            let changed = ready[quiet..].contains(&true) && self.devices.as_ref().is_none_or(drain);
            if changed || ready[..quiet].contains(&true) || left.is_zero() {
                return;
            }
        }
    }
}

fn listen_to_devices() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL | UDEV))?;
    Ok(socket)
}

/// Reads all that is there. True: a block device was among it, or some messages were lost.
fn drain(socket: &OwnedFd) -> bool {
    let mut changed = false;
    let mut message = vec![0; MESSAGE];
    loop {
        match recv(socket.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => changed |= is_of_a_block_device(&message[..length]),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return changed,
            // ENOBUFS: there were more than the socket could hold. The queue is read on.
            Err(Errno::ENOBUFS) => changed = true,
            Err(_) => return true,
        }
    }
}

/// Both kinds of messages carry the device's properties as `KEY=VALUE`, each ended by a zero byte.
fn is_of_a_block_device(message: &[u8]) -> bool {
    message
        .split(|byte| *byte == 0)
        .any(|property| property == b"SUBSYSTEM=block")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixDatagram;

    use nix::sys::socket::send;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const BLOCK: &[u8] = b"change@/devices/virtual/block/dm-3\0ACTION=change\0SUBSYSTEM=block\0DM_UDEV=1\0";
    const NET: &[u8] = b"add@/devices/virtual/net/vnet0\0ACTION=add\0SUBSYSTEM=net\0NAME=block\0";

    /// News of devices that the test itself sends.
    fn news() -> (UnixDatagram, News) {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        let devices = Some(OwnedFd::from(receiver));
        (sender, News { devices, mounts: None })
    }

    #[test]
    fn what_happened_between_two_waits_ends_the_second() {
        let (sender, news) = news();
        sender.send(BLOCK).unwrap();
        sender.send(BLOCK).unwrap();
        news.wait(LONG, &Cancel::new().unwrap());
        // All was read: nothing is left to end the next wait.
        let begun = Instant::now();
        news.wait(Duration::from_millis(20), &Cancel::new().unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn other_devices_are_not_waited_for() {
        let (sender, news) = news();
        sender.send(NET).unwrap();
        let begun = Instant::now();
        news.wait(Duration::from_millis(20), &Cancel::new().unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn the_flag_ends_a_wait() {
        let (_sender, news) = news();
        let cancel = Cancel::new().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| news.wait(LONG, &cancel));
            cancel.raise();
            waiter.join().unwrap();
        });
    }

    #[test]
    fn the_first_wait_of_a_thread_comes_back_at_once_and_later_ones_wait() {
        let cancel = Cancel::new().unwrap();
        wait_for_change(LONG, &cancel);
        cancel.raise();
        wait_for_change(LONG, &cancel);
    }

    #[test]
    fn the_list_of_mounts_is_no_news_until_it_changes() {
        let mut news = News::default();
        assert!(news.listen());
        news.devices = None;
        let begun = Instant::now();
        news.wait(Duration::from_millis(20), &Cancel::new().unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn a_change_of_the_list_of_mounts_ends_a_wait() {
        // Urgent data is the one thing besides that list that POLLPRI tells of.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let list = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (kernel, _) = listener.accept().unwrap();
        let news = News {
            devices: None,
            mounts: Some(list.into()),
        };
        send(kernel.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
        news.wait(LONG, &Cancel::new().unwrap());
    }

    #[test]
    fn with_nothing_to_listen_to_the_limit_ends_a_wait() {
        let begun = Instant::now();
        News::default().wait(Duration::from_millis(20), &Cancel::new().unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }
}
