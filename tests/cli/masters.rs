//! `virt-unlock master`, where key files answer instead of a person.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::program::{Place, VOLUMES, needs_root};

/// A configuration with two volumes and no master yet.
fn place() -> Place {
    let place = Place::new("");
    fs::write(place.path("key"), "a key").unwrap();
    let mut text = "[host]\nlibvirt-uri = \"test:///default\"\n".to_owned();
    for name in ["mail", "vm"] {
        let (device, key) = (place.path(name), place.path("key"));
        format(&device, &key);
        text.push_str(&format!(
            "[volume.{name}]\ndevice = \"{}\"\nunlock = [{{ master = \"office\" }}, {{ key-file = \"{}\" }}]\n",
            device.display(),
            key.display()
        ));
    }
    fs::write(place.path("volumes.toml"), text).unwrap();
    place
}

/// Makes a LUKS2 header in a file.
fn format(file: &Path, key: &Path) {
    fs::File::create(file).unwrap().set_len(20 << 20).unwrap();
    let formatted = Command::new("cryptsetup")
        .args(["luksFormat", "-q", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=5000"])
        .args([file, key])
        .output()
        .unwrap();
    assert!(formatted.status.success(), "{formatted:?}");
}

/// Writes the configuration: the volumes, and the master.
fn configure(place: &Place, master: &str) {
    let volumes = fs::read_to_string(place.path("volumes.toml")).unwrap();
    fs::write(place.config(), volumes + master).unwrap();
}

fn table(place: &Place) -> String {
    let at = |name: &str| place.path(name).display().to_string();
    format!(
        "[master.office]\nheader = \"{}\"\nunlock = [{{ key-file = \"{}\" }}]\n",
        at("masters/office.luks"),
        at("key")
    )
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_master_that_is_not_configured_gets_its_two_lines() {
    needs_root!();
    let place = Place::new("");
    for command in ["create office", "enroll office mail", "revoke office mail"] {
        let ran = place.run(&format!("master {command}"));
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{command}: {ran:?}");
        let lines = "\n\n[master.office]\nheader = \"/etc/virt-unlock/masters/office.luks\"\n";
        assert!(
            ran.err.contains("no master \"office\"") && ran.err.contains(lines),
            "{}",
            ran.err
        );
    }
    // As they are they are a configuration.
    fs::write(
        place.config(),
        "[master.office]\nheader = \"/etc/virt-unlock/masters/office.luks\"\n",
    )
    .unwrap();
    let ran = place.run("master create offices");
    assert!(ran.status == 2 && ran.err.contains("(there are office)"), "{ran:?}");
    let ran = place.run("master create a/b");
    assert!(
        ran.status == 2 && ran.err.contains("no master can have the name \"a/b\""),
        "{ran:?}"
    );
    let ran = place.run("master list");
    assert!(
        ran.status == 1 && ran.out.contains("office.luks: No such file or directory"),
        "{ran:?}"
    );
}

#[test]
fn a_master_s_life_without_a_question() {
    needs_root!();
    let place = place();
    configure(&place, &table(&place));
    let ran = place.run("master enroll office mail");
    assert!(
        ran.status == 1 && ran.err.contains("`virt-unlock master create office` makes"),
        "{ran:?}"
    );
    let made = place.run("master create office");
    assert!(
        made.status == 0 && made.out.starts_with("master office: made in "),
        "{made:?}"
    );
    assert_eq!(place.run("master create office").status, 1);

    let wrong = place.run("master enroll office mail nobody");
    assert!(
        wrong.status == 2 && wrong.err.contains("no volume \"nobody\""),
        "nothing is touched: {wrong:?}"
    );
    let enrolled = place.run("master enroll office mail mail");
    let words = "volume mail: enrolled with master office, by keyslot 1\n";
    assert_eq!((enrolled.status, enrolled.out.as_str()), (0, words), "{enrolled:?}");
    let again = place.run("master enroll office mail");
    let words = "volume mail: master office opens it already, by keyslot 1\n";
    assert_eq!((again.status, again.out.as_str()), (0, words), "{again:?}");

    // One is not enrolled: that is not all as it should be.
    let listed = place.run("master list --json");
    let document = json(&listed.out);
    assert_eq!((listed.status, &document["version"]), (1, &1.into()));
    let master = &document["masters"][0];
    let keys: Vec<&String> = master.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["header", "keyslots", "name", "reason", "uuid", "volumes"]);
    assert_eq!(master["keyslots"][0]["kdf"], "argon2id");
    let member = |name: &str, state: &str, keyslot: Value, reason: Value| serde_json::json!({"name": name, "state": state, "keyslot": keyslot, "reason": reason});
    let how = "not enrolled; `virt-unlock master enroll office vm`";
    assert_eq!(
        master["volumes"],
        serde_json::json!([
            member("mail", "enrolled", 1.into(), Value::Null),
            member("vm", "not-enrolled", Value::Null, how.into()),
        ])
    );
    let table = place.run("master list").out;
    assert!(
        table.contains("mail  enrolled, keyslot 1\n") && table.contains("vm  not enrolled; "),
        "{table}"
    );
    assert_eq!(place.run("master enroll office vm").status, 0);
    assert_eq!(place.run("master list").status, 0);

    // A volume of which the device is gone is said, and the other is done all the same.
    fs::rename(place.path("mail"), place.path("away")).unwrap();
    let revoked = place.run("master revoke office mail vm");
    assert_eq!(revoked.status, 1);
    assert!(revoked.err.contains("volume mail: failed: its device"), "{revoked:?}");
    assert_eq!(
        revoked.out, "volume vm: revoked from master office: keyslot 1 is wiped\n",
        "{revoked:?}"
    );
    fs::rename(place.path("away"), place.path("mail")).unwrap();
    // Without its header nobody knows whose tokens those are.
    fs::remove_file(place.path("masters/office.luks")).unwrap();
    let refused = place.run("master revoke office mail");
    assert!(
        refused.status == 1 && refused.err.contains("a copy of its file"),
        "{refused:?}"
    );
}

#[test]
fn masters_are_the_whole_program_s_and_root_s() {
    needs_root!();
    let place = Place::new("");
    // What only a person calls is no part of what goes into every initramfs.
    for command in ["master create office", "check", "discover", "timeline"] {
        let ran = place.finish(&mut place.command(VOLUMES, command));
        assert!(ran.status == 2 && ran.err.contains("`virt-unlock` does"), "{ran:?}");
    }
    for command in ["create office", "list"] {
        let ran = place.run_as_nobody(&format!("master {command}"));
        assert!(ran.status == 3 && ran.err.contains("needs root"), "{ran:?}");
    }
}
