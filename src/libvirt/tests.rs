//! With libvirt's own test driver, a whole hypervisor inside its library. Each test has a node of its own, made from a file.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use virt_unlock::facts::{Pause, PoolState};

use super::*;

const WEB: &str = "6695eb01-f6a4-8304-79aa-97f2502e193f";
const OFF: &str = "6695eb01-f6a4-8304-79aa-97f2502e1940";
const NOBODY: &str = "6695eb01-f6a4-8304-79aa-97f2502e1999";

struct Node {
    libvirt: Libvirt,
    cancel: Cancel,
    // Read again by each new connection.
    _file: tempfile::NamedTempFile,
}

/// `web` runs and has a disk in pool `vms`, `off` is off.
fn node() -> Node {
    let domain = |name: &str, uuid: &str, state: u8, more: &str, disk: &str| {
        format!(
            "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><name>{name}</name><uuid>{uuid}</uuid>\
            <memory>8192</memory><os><type>hvm</type></os>{more}<devices>{disk}</devices>\
            <test:runstate>{state}</test:runstate></domain>"
        )
    };
    let volume = "<disk type='volume'><source pool='vms' volume='web.qcow2'/><target dev='vda'/></disk>";
    let block = "<interface type='network'><source network='lan'/></interface>\
        <interface type='network'><source network='unknown'/></interface><disk type='block'><source dev='/dev/mapper/off'/><target dev='vda'/></disk>";
    let nodes = [
        "<node>",
        &domain("web", WEB, 1, "", volume),
        &domain("off", OFF, 5, "<on_poweroff>restart</on_poweroff>", block),
        "<network><name>lan</name><uuid>dfe224cb-28fb-8dd0-c4b2-64eb3f0f4567</uuid><bridge name='virbr7'/></network>",
        "<pool type='dir'><name>vms</name><uuid>dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566</uuid>\
        <target><path>/srv/vm</path></target></pool></node>",
    ];
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(nodes.concat().as_bytes()).unwrap();
    Node {
        libvirt: Libvirt::new(&format!("test://{}", file.path().display())),
        cancel: Cancel::new().unwrap(),
        _file: file,
    }
}

impl Node {
    fn state(&self, uuid: &str) -> Option<DomainState> {
        self.libvirt.state(uuid, &self.cancel).unwrap()
    }
}

#[test]
fn domains_are_known_without_a_word_to_the_storage_driver() {
    let node = node();
    let call = Call::read("listing domains", READ_LIMIT);
    let work = |connection: &Connect, _: &dyn Fn() -> bool| Ok(facts::domains(connection)?);
    let found = node.libvirt.0.call(call, &node.cancel, work).unwrap();
    let web = found.iter().find(|domain| domain.name == "web").unwrap();
    assert_eq!(web.state, DomainState::Running);
    assert_eq!(web.sources[0].pool.as_deref(), Some("vms"));
    assert_eq!(web.sources[0].path, Path::new(""));
}

#[test]
fn facts_have_domains_and_pools() {
    let node = node();
    let facts = node.libvirt.facts(&node.cancel).unwrap();
    assert_eq!(
        facts.pools.iter().collect::<Vec<_>>(),
        [(&"vms".to_owned(), &PoolState::Active)]
    );
    assert_eq!(facts.pool_folders["vms"], Path::new("/srv/vm"));
    let domain = |name: &str| facts.domains.iter().find(|domain| domain.name == name).unwrap();
    let (web, off) = (domain("web"), domain("off"));
    assert_eq!(
        (web.uuid.as_str(), web.state, web.autostart),
        (WEB, DomainState::Running, false)
    );
    assert_eq!((off.uuid.as_str(), off.state), (OFF, DomainState::ShutOff));
    assert!(off.restarts_on_poweroff && !web.restarts_on_poweroff);
    let disk = &web.sources[0];
    assert_eq!(
        (disk.path.as_path(), disk.pool.as_deref()),
        (Path::new("/srv/vm/web.qcow2"), Some("vms"))
    );
    assert_eq!(off.sources[0].path, Path::new("/dev/mapper/off"));
    assert_eq!((web.sources.len(), off.sources.len()), (1, 1));
    assert_eq!(node.libvirt.domain(WEB, &node.cancel).unwrap().as_ref(), Some(web));
}

#[test]
fn a_pool_that_is_stopped_still_tells_its_folder() {
    let node = node();
    for _ in 0..2 {
        node.libvirt.stop_pool("vms", &node.cancel).unwrap();
        let facts = node.libvirt.facts(&node.cancel).unwrap();
        assert_eq!(facts.pools["vms"], PoolState::Inactive);
        assert_eq!(facts.pool_folders["vms"], Path::new("/srv/vm"));
    }
    let web = node.libvirt.domain(WEB, &node.cancel).unwrap().unwrap();
    assert_eq!(web.sources[0].path, Path::new("/srv/vm/web.qcow2"));
    for _ in 0..2 {
        node.libvirt.start_pool("vms", &node.cancel).unwrap();
        assert_eq!(node.libvirt.facts(&node.cancel).unwrap().pools["vms"], PoolState::Active);
    }
    node.libvirt.stop_pool("other", &node.cancel).unwrap();
    let error = node.libvirt.start_pool("other", &node.cancel).unwrap_err();
    assert!(
        matches!(&error, HypervisorError::NotFound(words) if words.contains("no storage pool other")),
        "{error}"
    );
}

#[test]
fn what_is_so_already_is_done() {
    let node = node();
    let (libvirt, cancel) = (&node.libvirt, &node.cancel);
    for _ in 0..2 {
        assert!(!libvirt.start(OFF, cancel).unwrap());
        assert_eq!(node.state(OFF), Some(DomainState::Running));
        libvirt.resume(OFF, cancel).unwrap();
    }
    for _ in 0..2 {
        libvirt.destroy(OFF, cancel).unwrap();
        assert_eq!(node.state(OFF), Some(DomainState::ShutOff));
    }
    for mode in [ShutdownMode::Acpi, ShutdownMode::Agent] {
        libvirt.request_shutdown(WEB, mode, cancel).unwrap();
        assert_eq!(node.state(WEB), Some(DomainState::ShutOff));
    }
}

#[test]
fn somebody_else_may_start_it_first() {
    let node = node();
    let call = Call::start("starting", START_LIMIT);
    let work = |connection: &Connect, _: &dyn Fn() -> bool| create(&find(connection, WEB)?);
    node.libvirt.0.call(call, &node.cancel, work).unwrap();
}

#[test]
fn a_paused_domain_is_woken() {
    let node = node();
    let work = |connection: &Connect, _: &dyn Fn() -> bool| Ok(find(connection, WEB)?.suspend()?);
    node.libvirt
        .0
        .call(Call::other("pausing", READ_LIMIT), &node.cancel, work)
        .unwrap();
    assert_eq!(node.state(WEB), Some(DomainState::Paused(Pause::Ordered)));
    node.libvirt.start(WEB, &node.cancel).unwrap();
    assert_eq!(node.state(WEB), Some(DomainState::Paused(Pause::Ordered)));
    node.libvirt.resume(WEB, &node.cancel).unwrap();
    assert_eq!(node.state(WEB), Some(DomainState::Running));
}

#[test]
fn nobody_is_not_found() {
    let node = node();
    let (libvirt, cancel) = (&node.libvirt, &node.cancel);
    assert_eq!(node.state(NOBODY), None);
    assert_eq!(libvirt.domain(NOBODY, cancel).unwrap(), None);
    for result in [libvirt.start(NOBODY, cancel).map(drop), libvirt.resume(NOBODY, cancel)] {
        assert!(matches!(result, Err(HypervisorError::NotFound(_))), "{result:?}");
    }
    // A transient domain that is off is none any more.
    libvirt.destroy(NOBODY, cancel).unwrap();
    libvirt.request_shutdown(NOBODY, ShutdownMode::Acpi, cancel).unwrap();
}

#[test]
fn a_lost_connection_is_made_again() {
    let node = node();
    assert_eq!(node.state(WEB), Some(DomainState::Running));
    node.libvirt.0.disconnect();
    assert_eq!(node.state(WEB), Some(DomainState::Running));
}

#[test]
fn a_network_that_is_off_is_started_where_it_should_be_on() {
    let node = node();
    let off = |autostart: bool| {
        let work = move |connection: &Connect, _: &dyn Fn() -> bool| {
            let network = connection.lookup_network_by_name("lan")?;
            if network.is_active()? {
                network.destroy()?;
            }
            Ok(network.set_autostart(autostart)?)
        };
        node.libvirt
            .0
            .call(Call::other("preparing", START_LIMIT), &node.cancel, work)
            .unwrap();
        node.libvirt.start_networks(OFF, &node.cancel).unwrap()
    };
    assert_eq!(off(false), [""; 0]);
    assert_eq!(off(true), ["lan"]);
    assert_eq!(node.libvirt.start_networks(OFF, &node.cancel).unwrap(), [""; 0]);
    assert_eq!(node.libvirt.start_networks(WEB, &node.cancel).unwrap(), [""; 0]);
}

#[test]
fn a_domain_that_is_saved_is_off_and_its_start_restores_it() {
    let node = node();
    let is_saved = || node.libvirt.domain(WEB, &node.cancel).unwrap().unwrap().is_saved;
    assert!(!is_saved());
    node.libvirt.save(WEB, START_LIMIT, &node.cancel).unwrap();
    assert_eq!((node.state(WEB), is_saved()), (Some(DomainState::ShutOff), true));
    node.libvirt.save(WEB, START_LIMIT, &node.cancel).unwrap();
    // That driver does not say that it restored; QEMU's does.
    node.libvirt.start(WEB, &node.cancel).unwrap();
    assert_eq!((node.state(WEB), is_saved()), (Some(DomainState::Running), false));
    node.libvirt.save(NOBODY, START_LIMIT, &node.cancel).unwrap();
}

#[test]
fn a_state_that_cannot_be_read_is_an_error() {
    let node = node();
    let work = |connection: &Connect, _: &dyn Fn() -> bool| {
        let domain = find(connection, OFF)?;
        domain.undefine()?;
        Ok(facts::state(&domain).map_err(|error| error.code().known()))
    };
    let state = node
        .libvirt
        .0
        .call(Call::read("reading", READ_LIMIT), &node.cancel, work)
        .unwrap();
    assert_eq!(state, Err(Some(ErrorNumber::NoDomain)));
}

#[test]
fn no_daemon_is_said_at_once() {
    let at = tempfile::tempdir().unwrap();
    let uri = format!("qemu+unix:///system?socket={}/absent", at.path().display());
    let error = Libvirt::new(&uri).facts(&Cancel::new().unwrap()).unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, HypervisorError::Unavailable(_)), "{words}");
    assert!(
        words.contains("absent") && words.contains("systemctl status libvirtd.socket"),
        "{words}"
    );
}

#[test]
fn a_wrong_uri_is_refused_with_its_key() {
    let error = Libvirt::new("qemu:///[").facts(&Cancel::new().unwrap()).unwrap_err();
    assert!(
        matches!(&error, HypervisorError::Refused(words) if words.contains("libvirt-uri")),
        "{error}"
    );
}

#[test]
fn a_daemon_that_hangs_holds_up_nobody() {
    let at = tempfile::tempdir().unwrap();
    let socket = at.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let libvirt = Libvirt::new(&format!("qemu+unix:///system?socket={}", socket.display()));
    let cancel = Cancel::new().unwrap();
    let since = Instant::now();
    // It accepts, and never says a word.
    let short = Call::read("listing", Duration::from_millis(50));
    let error = libvirt.0.call(short, &cancel, |_, _| Ok(())).unwrap_err();
    assert!(
        matches!(&error, HypervisorError::Unavailable(words) if words.contains("listing took longer than 50ms")),
        "{error}"
    );
    thread::scope(|scope| {
        let waiting = scope.spawn(|| libvirt.start(WEB, &cancel));
        // The call is on its way when the second connection is there.
        let _first = listener.accept().unwrap();
        let _second = listener.accept().unwrap();
        cancel.raise();
        assert_eq!(waiting.join().unwrap(), Err(HypervisorError::Cancelled));
    });
    assert!(since.elapsed() < READ_LIMIT);
}

#[test]
fn a_start_that_was_left_behind_is_waited_for_before_anything_is_read() {
    let node = node();
    let (begun, on_its_way) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    thread::scope(|scope| {
        let start = scope.spawn(|| {
            let call = Call::start("starting", START_LIMIT);
            node.libvirt.0.call(call, &node.cancel, move |connection, wanted| {
                begun.send(()).unwrap();
                let _ = wait.lock().unwrap().recv();
                assert!(!wanted());
                Ok(find(connection, OFF)?.create()?)
            })
        });
        on_its_way.recv().unwrap();
        node.cancel.raise();
        assert_eq!(start.join().unwrap(), Err(HypervisorError::Cancelled));
    });
    assert_eq!(node.libvirt.0.left_behind(), 1);
    let fresh = Cancel::new().unwrap();
    let early = node
        .libvirt
        .0
        .call(Call::read("reading", Duration::from_millis(20)), &fresh, |_, _| Ok(()));
    assert!(matches!(early, Err(HypervisorError::Unavailable(_))), "{early:?}");
    go.send(()).unwrap();
    assert_eq!(node.libvirt.state(OFF, &fresh).unwrap(), Some(DomainState::Running));
    assert_eq!(node.libvirt.0.left_behind(), 0);
}

#[test]
fn a_raised_flag_sends_nothing_and_a_panic_is_an_answer() {
    let node = node();
    let call = Call::other("panicking", START_LIMIT);
    let error = node
        .libvirt
        .0
        .call::<()>(call, &node.cancel, |_, _| panic!("of this test"))
        .unwrap_err();
    assert!(matches!(error, HypervisorError::Unavailable(_)), "{error}");
    node.cancel.raise();
    assert_eq!(node.libvirt.start(OFF, &node.cancel), Err(HypervisorError::Cancelled));
    let fresh = Cancel::new().unwrap();
    assert_eq!(node.libvirt.state(OFF, &fresh).unwrap(), Some(DomainState::ShutOff));
}
