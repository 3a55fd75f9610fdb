//! What one gets who asks for the wrong thing, in the wrong words, or without the right to.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::program::{Place, VOLUMES, WHOLE, bare, needs_root};

const VERBS: [&str; 5] = ["up", "down", "status", "plan", "check"];

#[test]
fn the_help_teaches() {
    let ran = bare(WHOLE, &["--help"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    for word in [
        "Exit status:",
        "Examples:",
        "/etc/virt-unlock/config.toml",
        "systemctl enable",
    ] {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
    }
    for verb in VERBS {
        assert!(ran.out.contains(&format!("\n  {verb} ")), "{verb}: {}", ran.out);
        let ran = bare(WHOLE, &[verb, "--help"]);
        assert!(ran.status == 0 && ran.out.contains("Usage:"), "{ran:?}");
    }
    assert!(!ran.out.contains("\n  service "), "{}", ran.out);
    assert!(ran.out.lines().count() <= 38, "{}", ran.out);
    assert!(ran.out.lines().all(|line| line.chars().count() <= 100), "{}", ran.out);
}

#[test]
fn the_version_is_said() {
    for program in [WHOLE, VOLUMES] {
        let ran = bare(program, &["--version"]);
        assert_eq!(ran.out, format!("virt-unlock {}\n", env!("CARGO_PKG_VERSION")));
        assert_eq!(ran.status, 0);
    }
}

#[test]
fn a_wrong_command_line_is_told_so_beside_standard_output() {
    let wrong: [(&[&str], &str); 7] = [
        (&[], "Usage:"),
        (&["pan"], "'plan'"),
        (&["plan", "--jsn"], "--json"),
        (&["plan", "--json", "--dot"], "cannot be used with"),
        (&["-q", "-v", "plan"], "cannot be used with"),
        (&["status", "mail"], "unexpected argument"),
        (&["--config"], "--config <FILE>"),
    ];
    for (args, words) in wrong {
        let ran = bare(WHOLE, args);
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{args:?}");
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
    }
}

#[test]
fn a_wrong_configuration_is_shown_at_its_place_and_touches_nothing() {
    needs_root!();
    let place = Place::new("[volume.mail]\ndevice = \"/dev/vg0/mail\"\n  trie = 5\n[host]\nhold-login = true\n");
    let file = place.config().display().to_string();
    for verb in VERBS {
        let ran = place.run_and_look(verb);
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{verb}: {ran:?}");
        // Both at once, and the nearest key.
        for words in [format!("{file}:3:3"), format!("{file}:5:"), "tries".to_owned()] {
            assert!(ran.err.contains(&words), "{verb}: {words}: {}", ran.err);
        }
        assert_eq!(ran.left, "", "{verb}");
    }
}

#[test]
fn a_missing_configuration_is_told_with_what_to_do() {
    needs_root!();
    let place = Place::new("");
    fs::remove_file(place.config()).unwrap();
    for verb in VERBS {
        let ran = place.run_and_look(verb);
        assert_eq!(
            (ran.status, ran.out.as_str(), ran.left.as_str()),
            (2, "", ""),
            "{verb}: {ran:?}"
        );
        assert!(ran.err.contains("config.toml does not exist; create it with"), "{}", ran.err);
    }
}

#[test]
fn who_is_not_root_may_look_and_no_more() {
    needs_root!();
    let place = Place::with_volume("[domain.test]\nvolumes = [\"mail\"]\n");
    for verb in ["up", "down", "check"] {
        let ran = place.run_as_nobody(verb);
        assert_eq!((ran.status, ran.out.as_str()), (3, ""), "{verb}: {ran:?}");
        assert!(ran.err.contains(&format!("sudo virt-unlock {verb}")), "{verb}: {}", ran.err);
    }
    let plan = place.run_as_nobody("plan");
    assert!(plan.status == 0 && plan.out.contains("mail"), "{plan:?}");
    let status = place.run_as_nobody("status");
    assert!(status.status == 1 && status.out.contains("test"), "{status:?}");

    // Neither is a configuration wrong because one may not read it.
    fs::set_permissions(place.config(), fs::Permissions::from_mode(0o600)).unwrap();
    for verb in VERBS {
        let ran = place.run_as_nobody(verb);
        assert_eq!((ran.status, ran.out.as_str()), (3, ""), "{verb}: {ran:?}");
        assert!(ran.err.contains("sudo"), "{verb}: {}", ran.err);
    }
}

#[test]
fn an_unknown_name_is_told_the_known_ones_and_touches_nothing() {
    needs_root!();
    let place = Place::with_volume("[domain.test]\nvolumes = [\"mail\"]\n");
    for verb in ["plan mial", "plan --down mial", "up mail mial", "down mial"] {
        let ran = place.run_and_look(verb);
        assert_eq!(
            (ran.status, ran.out.as_str(), ran.left.as_str()),
            (2, "", ""),
            "{verb}: {ran:?}"
        );
        assert!(ran.err.contains("\"mial\"; known are: mail, test"), "{verb}: {}", ran.err);
    }
    let ran = Place::new("").run_and_look("up mail");
    assert_eq!((ran.status, ran.left.as_str()), (2, ""), "{ran:?}");
    assert!(ran.err.contains("\"mail\": nothing is configured"), "{}", ran.err);
}
