//! Ways to a key that need nobody, or need somebody else than a passphrase's owner.

use virt_unlock::config::{Config, Unlock};

use crate::fake_host::FakeHost;
use crate::fake_host::run::{Run, config, edit, failure};

/// A volume with these ways, and one that is asked for.
fn two(ways: &[Unlock]) -> (FakeHost, Config) {
    let (host, mut config) = (FakeHost::new(), config(&["mail", "web"]));
    host.volume("mail", "mail opens").volume("web", "web opens");
    edit(&mut config, "mail").unlock = ways.to_vec();
    (host, config)
}

fn credential() -> Unlock {
    Unlock::Credential { name: "mail".into() }
}

#[test]
fn a_credential_opens_its_volume_and_nobody_is_asked() {
    let (host, config) = two(&[credential(), Unlock::Passphrase]);
    host.set(|world| {
        world.credentials.insert("mail".into(), b"mail opens".to_vec());
    });
    let report = Run::new(&host, &config).up();
    report.assert_good();
    assert!(report.says("opened by credential mail"));
    assert_eq!((host.count("ask mail"), host.count("ask web")), (0, 1));
    host.assert_lawful();
}

#[test]
fn a_credential_that_is_missing_or_does_not_fit_is_said_and_the_next_way_is_tried() {
    for (bytes, warning) in [
        (None, "credential mail: its unit has no credential of this name"),
        (Some("other"), "credential mail: no keyslot opens with this key"),
    ] {
        let (host, config) = two(&[credential(), Unlock::Passphrase]);
        host.set(|world| {
            world
                .credentials
                .extend(bytes.map(|bytes| ("mail".into(), bytes.as_bytes().to_vec())));
        });
        let report = Run::new(&host, &config).up();
        report.assert_good();
        assert_eq!(report.warnings(), [warning]);
        assert_eq!(host.count("ask mail"), 1);
    }
    let (host, config) = two(&[credential()]);
    let report = Run::new(&host, &config).up();
    assert_eq!(
        failure(report.volume("mail")),
        "credential mail: its unit has no credential of this name; `virt-unlock up mail` tries again"
    );
    assert_eq!(host.count("ask mail"), 0);
}
