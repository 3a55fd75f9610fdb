//! A guest whose name is made to be shown, for a real libvirt lets almost any pass.

use std::fs;

use virt_unlock::text;

use crate::program::{Place, needs_root};

/// The one-character form of `ESC [`, a mark that turns text around, and a line separator: XML lets them pass.
const DRIVER: &str = "<node><domain type='test'>
  <name>evil&#x9b;2J&#x202e;&#x2028;$(id)</name>
  <uuid>77777777-7777-4777-8777-777777777777</uuid>
  <memory>8192</memory><vcpu>1</vcpu>
  <os><type>hvm</type></os>
  <devices><disk type='block'><source dev='/dev/mapper/mail'/><target dev='hda'/></disk></devices>
</domain></node>";

#[test]
fn a_name_moves_no_cursor_and_turns_no_text_around() {
    needs_root!();
    let place = Place::with_volume("");
    let driver = place.path("driver.xml");
    fs::write(&driver, DRIVER).unwrap();
    let config = fs::read_to_string(place.config()).unwrap();
    let config = config.replace("test:///default", &format!("test://{}", driver.display()));
    fs::write(place.config(), config).unwrap();
    for verb in [
        "status",
        "status --json",
        "plan",
        "plan --json",
        "plan --dot",
        "plan --down --json",
        "down -v",
        "down --now",
    ] {
        let ran = place.run(verb);
        let said = ran.out + &ran.err;
        assert!(said.contains("evil"), "{verb}: {said:?}");
        assert!(
            !said.contains(|letter| letter != '\n' && text::moves(letter)),
            "{verb}: {said:?}"
        );
    }
    let status: serde_json::Value = serde_json::from_str(&place.run("status --json").out).unwrap();
    // A program gets the name that libvirt knows.
    assert_eq!(status["domains"][0]["name"], "evil\u{9b}2J\u{202e}\u{2028}$(id)");
    assert_eq!(status["domains"][0]["volumes"], serde_json::json!(["mail"]));
}
