//! `down --now` where somebody has just broken the configuration.

use std::fs;

use crate::program::{Place, Ran, WHOLE, needs_root};

const WRONG: &str = "[volume.mail]\ndevize = \"/dev/vg0/mail\"\n";

/// `down --now` with `kept` as the configuration that virt-unlock.service went up by.
fn down_now(place: &Place, kept: Option<&str>, args: &str) -> Ran {
    let script = r#"mount -t tmpfs tmpfs /run && { [ ! -e "$KEPT" ] || install -D "$KEPT" /run/virt-unlock/running.toml; } &&
        exec "$0" "$@""#;
    let file = place.path("kept");
    if let Some(kept) = kept {
        fs::write(&file, kept).unwrap();
    }
    place.finish(place.in_shell(script, WHOLE, args).env("KEPT", file))
}

#[test]
fn an_emergency_goes_by_the_configuration_of_the_way_up_where_the_present_one_is_wrong() {
    needs_root!();
    let place = Place::with_volume("[domain.test]\nvolumes = [\"mail\"]\n");
    let kept = fs::read_to_string(place.config()).unwrap();
    for wrong in [Some(WRONG), None] {
        match wrong {
            Some(text) => fs::write(place.config(), text).unwrap(),
            None => fs::remove_file(place.config()).unwrap(),
        }
        let ran = down_now(&place, Some(&kept), "down --now");
        assert_eq!(ran.status, 0, "{ran:?}");
        assert!(ran.out.contains("guest test: destroyed: at once"), "{ran:?}");
        let file = place.config().display().to_string();
        let words = "going down by the one that was in force on the way up, /run/virt-unlock/running.toml";
        assert!(ran.err.contains(&file) && ran.err.contains(words), "{ran:?}");
        // Who has time is to correct it first.
        let ordinary = down_now(&place, Some(&kept), "down");
        assert_eq!((ordinary.status, ordinary.out.as_str()), (2, ""), "{ordinary:?}");
    }
}

/// Who has time to correct the file does it first, though a right one is kept.
#[test]
fn a_person_s_way_down_by_a_wrong_configuration_touches_nothing() {
    needs_root!();
    let place = Place::with_volume("[domain.test]\nvolumes = [\"mail\"]\n");
    let script = r#"mount -t tmpfs tmpfs /run && install -D "$2" /run/virt-unlock/running.toml && mount -t tmpfs tmpfs /etc &&
        install -D "$2" /etc/virt-unlock/config.toml && { [ -z "$MORE" ] || echo "$MORE" >>/etc/virt-unlock/config.toml; } &&
        exec "$0" down"#;
    let down = |more: &str| place.finish(place.in_shell(script, WHOLE, "").env("MORE", more));
    let right = down("");
    assert!(right.status == 0 && right.out.contains("guest test:"), "{right:?}");
    let wrong = down("muont = 1");
    assert_eq!((wrong.status, wrong.out.as_str()), (2, ""), "{wrong:?}");
    assert!(
        wrong.err.contains("/etc/virt-unlock/config.toml") && wrong.err.contains("muont"),
        "{wrong:?}"
    );
}

#[test]
fn an_emergency_with_nothing_to_go_by_says_what_a_person_can_do() {
    needs_root!();
    let place = Place::new(WRONG);
    // What another version kept, or half of a file, is nothing to go by either.
    for kept in [None, Some("[volume.mail")] {
        let ran = down_now(&place, kept, "down --now");
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{ran:?}");
        for words in [
            "NOTHING WAS TAKEN DOWN",
            "/run/virt-unlock",
            "cryptsetup luksSuspend NAME",
            "`devize`",
        ] {
            assert!(ran.err.contains(words), "{words}: {ran:?}");
        }
    }
}

#[test]
fn a_way_up_by_hand_leaves_what_an_emergency_goes_by() {
    needs_root!();
    // A way that fails is one too.
    let place = Place::with_volume("unlock = [{ key-file = \"/nowhere\" }]\n[domain.test]\nvolumes = [\"mail\"]\n");
    let script = r#"mount -t tmpfs tmpfs /run && { "$0" --config "$2" up; stat -c %a /run/virt-unlock/by-hand.toml; echo "[" >"$2"; } &&
        exec "$0" "$@""#;
    let ran = place.finish(&mut place.in_shell(script, WHOLE, "down --now"));
    assert!(
        ran.out.contains("600\n") && ran.out.contains("guest test: destroyed"),
        "{ran:?}"
    );
    assert!(ran.err.contains("/run/virt-unlock/by-hand.toml"), "{ran:?}");
}
