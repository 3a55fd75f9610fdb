//! `discover`: a configuration for whatever is there, with whatever configuration there is.

use std::fs;

use virt_unlock::config;

use crate::program::{Place, Ran, needs_root};

/// What it wrote is a configuration.
#[track_caller]
fn parsed(ran: &Ran) -> config::Config {
    config::parse(&[("out".into(), ran.out.clone())]).unwrap_or_else(|problems| panic!("{problems}\n{}", ran.out))
}

#[test]
fn a_configuration_comes_out_whatever_there_is() {
    needs_root!();
    let place = Place::with_volume("");
    let ran = place.run_and_look("discover");
    assert_eq!((ran.status, ran.err.as_str(), ran.left.as_str()), (0, "", ""), "{ran:?}");
    // libvirt is asked where the configuration that is there says, and its guests are named.
    assert_eq!(parsed(&ran).host.libvirt_uri, "test:///default");
    assert!(ran.out.contains("is there already"), "{}", ran.out);
    assert!(ran.out.contains("#   - test (no autostart)"), "{}", ran.out);

    for (text, words) in [(Some("[volume.mail]\ndevise = 1\n"), "is wrong and was not read"), (None, "")] {
        match text {
            Some(text) => fs::write(place.config(), text).unwrap(),
            None => fs::remove_file(place.config()).unwrap(),
        }
        let ran = place.run_and_look("discover");
        parsed(&ran);
        // Comments are broken between words.
        let out = ran.out.replace("\n#        ", " ");
        assert!(out.contains(words), "{out}");
        assert_eq!(ran.left, "");
    }
}

#[test]
fn without_libvirt_the_rest_comes_out_and_it_says_so_beside_it() {
    needs_root!();
    let place = Place::new("[host]\nlibvirt-uri = \"qemu:///system?socket=/nonexistent/libvirt-sock\"\n");
    let ran = place.run("discover");
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.err.contains("the guests are missing from what was written"),
        "{}",
        ran.err
    );
    assert!(
        ran.out.contains("# doubt: libvirt's guests and pools are missing here"),
        "{}",
        ran.out
    );
    parsed(&ran);
}

#[test]
fn only_root_can_read_headers() {
    needs_root!();
    let ran = Place::new("").run_as_nobody("discover");
    assert_eq!((ran.status, ran.out.as_str()), (3, ""), "{ran:?}");
    assert!(ran.err.contains("sudo virt-unlock discover"), "{}", ran.err);
}
