//! Images that qemu-img made, and such as only an attacker makes.

use std::process::Command;

use proptest::prelude::*;

use super::*;

const NONE: [PathBuf; 0] = [];

fn qemu_img(folder: &Path, words: &[&str]) {
    let done = Command::new("qemu-img").args(words).current_dir(folder).output().unwrap();
    assert!(
        done.status.success(),
        "qemu-img {words:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn names(folder: &Path, of: &str) -> Vec<String> {
    let found = chain(&folder.join(of), Some("qcow2"), true);
    found
        .iter()
        .map(|path| path.strip_prefix(folder).unwrap_or(path).display().to_string())
        .collect()
}

#[test]
fn a_chain_is_followed_to_its_raw_end() {
    let at = folder();
    let here = at.path();
    std::fs::create_dir(here.join("bases")).unwrap();
    qemu_img(here, &["create", "-f", "raw", "bases/base.raw", "1M"]);
    qemu_img(
        here,
        &["create", "-f", "qcow2", "-F", "raw", "-b", "base.raw", "bases/middle.qcow2"],
    );
    qemu_img(
        here,
        &[
            "create",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            "bases/middle.qcow2",
            "top.qcow2",
        ],
    );
    // Relative to the folder of the image that names it, not of the first.
    assert_eq!(names(here, "top.qcow2"), ["bases/middle.qcow2", "bases/base.raw"]);
    assert_eq!(names(here, "bases/base.raw"), [""; 0]);
    // Version 2 headers end elsewhere.
    qemu_img(
        here,
        &[
            "create",
            "-f",
            "qcow2",
            "-o",
            "compat=0.10",
            "-F",
            "raw",
            "-b",
            "bases/base.raw",
            "old.qcow2",
        ],
    );
    assert_eq!(names(here, "old.qcow2"), ["bases/base.raw"]);
}

#[test]
fn only_declared_images_are_read() {
    let at = folder();
    let here = at.path();
    qemu_img(here, &["create", "-f", "raw", "base.raw", "1M"]);
    qemu_img(here, &["create", "-f", "qcow2", "-F", "raw", "-b", "base.raw", "top.qcow2"]);
    // A guest wrote a header into its raw disk: nobody follows it.
    assert_eq!(chain(&here.join("top.qcow2"), Some("raw"), true), NONE);
    assert_eq!(chain(&here.join("top.qcow2"), None, true), NONE);
    // The XML said what lies below.
    assert_eq!(chain(&here.join("top.qcow2"), Some("qcow2"), false), NONE);
    qemu_img(
        here,
        &[
            "create",
            "-f",
            "qcow2",
            "-u",
            "-F",
            "raw",
            "-b",
            "top.qcow2",
            "above.qcow2",
            "1M",
        ],
    );
    assert_eq!(names(here, "above.qcow2"), ["top.qcow2"]);
}

#[test]
fn what_is_not_there_yet_ends_the_chain_and_is_named() {
    let at = folder();
    qemu_img(
        at.path(),
        &[
            "create",
            "-f",
            "qcow2",
            "-u",
            "-F",
            "qcow2",
            "-b",
            "/not/mounted/base.qcow2",
            "top.qcow2",
            "1M",
        ],
    );
    assert_eq!(names(at.path(), "top.qcow2"), ["/not/mounted/base.qcow2"]);
    assert_eq!(names(at.path(), "absent.qcow2"), [""; 0]);
}

#[test]
fn a_loop_ends() {
    let at = folder();
    let here = at.path();
    qemu_img(here, &["create", "-f", "qcow2", "a.qcow2", "1M"]);
    qemu_img(here, &["create", "-f", "qcow2", "-F", "qcow2", "-b", "a.qcow2", "b.qcow2"]);
    qemu_img(
        here,
        &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "b.qcow2", "a.qcow2"],
    );
    assert_eq!(names(here, "a.qcow2"), ["b.qcow2"]);
    // A loop that never spells a name twice.
    std::fs::create_dir(here.join("d")).unwrap();
    qemu_img(
        here,
        &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "d/../a.qcow2", "a.qcow2"],
    );
    assert_eq!(names(here, "a.qcow2").len(), CHAIN_LIMIT);
}

#[test]
fn an_external_data_file_counts_only_where_the_header_says_so() {
    let at = folder();
    let here = at.path();
    qemu_img(
        here,
        &["create", "-f", "qcow2", "-o", "data_file=data.raw", "split.qcow2", "1M"],
    );
    assert_eq!(names(here, "split.qcow2"), ["data.raw"]);
    assert_eq!(
        chain(&here.join("split.qcow2"), Some("qcow2"), false),
        [here.join("data.raw")]
    );
    let mut bytes = std::fs::read(here.join("split.qcow2")).unwrap();
    bytes[79] &= !4;
    std::fs::write(here.join("split.qcow2"), bytes).unwrap();
    assert_eq!(names(here, "split.qcow2"), [""; 0]);
}

#[test]
fn json_names_are_read() {
    let at = folder();
    let here = at.path();
    qemu_img(here, &["create", "-f", "qcow2", "base.qcow2", "1M"]);
    let base = here.join("base.qcow2");
    let name = format!(
        r#"json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{}"}}}}"#,
        base.display()
    );
    qemu_img(here, &["create", "-f", "qcow2", "-F", "qcow2", "-b", &name, "top.qcow2"]);
    assert_eq!(names(here, "top.qcow2"), ["base.qcow2"]);
}

#[test]
fn names_mean_what_they_mean_to_qemu() {
    let place = |name: &str| locate(name.as_bytes(), Path::new("/srv/vm"));
    let path = |name: &str| place(name).map(|found| found.path.display().to_string());
    assert_eq!(path("base").as_deref(), Some("/srv/vm/base"));
    assert_eq!(path("/dev/mapper/base").as_deref(), Some("/dev/mapper/base"));
    assert_eq!(path("./odd:name").as_deref(), Some("/srv/vm/./odd:name"));
    assert_eq!(path("file:base").as_deref(), Some("/srv/vm/base"));
    assert_eq!(place("file:///x").map(|found| found.path), Some("/x".into()));
    assert_eq!(path("host_device:/dev/vg/base").as_deref(), Some("/dev/vg/base"));
    for elsewhere in [
        "nbd:unix:/run/nbd",
        "http://example.org/x",
        "rbd:pool/image",
        "fat:/srv",
        "",
        "file:",
        "json:{",
        "json:[]",
    ] {
        assert_eq!(path(elsewhere), None, "{elsewhere}");
    }
    let flat = place(r#"json:{"driver":"qcow2","file.driver":"host_device","file.filename":"/dev/x"}"#).unwrap();
    assert_eq!((flat.path, flat.format.as_deref()), ("/dev/x".into(), Some("qcow2")));
    let deep = place(r#"json:{"driver":"qcow2","file":{"driver":"raw","file":{"filename":"/y"}}}"#).unwrap();
    assert_eq!((deep.path, deep.format.as_deref()), ("/y".into(), Some("qcow2")));
    let bare = place(r#"json:{"driver":"file","filename":"/z"}"#).unwrap();
    assert_eq!((bare.path, bare.format), ("/z".into(), None));
    assert_eq!(
        path(r#"json:{"driver":"qcow2","file":{"driver":"gluster","filename":"/z"}}"#),
        None
    );
}

#[test]
fn damaged_headers_are_said() {
    let at = folder();
    let here = at.path();
    qemu_img(
        here,
        &[
            "create",
            "-f",
            "qcow2",
            "-u",
            "-F",
            "raw",
            "-b",
            "base.raw",
            "whole.qcow2",
            "1M",
        ],
    );
    let whole = std::fs::read(here.join("whole.qcow2")).unwrap();
    let name = u64::from_be_bytes(whole[8..16].try_into().unwrap());
    let end = usize::try_from(name).unwrap() + "base.raw".len();
    assert!(Header::read(&whole[..end]).is_some());
    for cut in 0..end {
        assert_eq!(Header::read(&whole[..cut]), None, "{cut}");
    }
    let mut long_name = whole.clone();
    long_name[16..20].copy_from_slice(&1024_u32.to_be_bytes());
    std::fs::write(here.join("whole.qcow2"), long_name).unwrap();
    let error = references(&here.join("whole.qcow2")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let mut no_name = whole;
    no_name[16..20].copy_from_slice(&0_u32.to_be_bytes());
    assert_eq!(Header::read(&no_name).unwrap().backing, None);
}

#[test]
fn a_name_may_follow_the_header_at_once() {
    let mut start = [MAGIC, &[0, 0, 0, 2]].concat();
    start.extend(72_u64.to_be_bytes());
    start.extend(5_u32.to_be_bytes());
    start.resize(72, 0);
    start.extend(b"/base and what follows");
    let header = Header::read(&start).unwrap();
    assert_eq!((header.backing, header.backing_format), (Some(&b"/base"[..]), None));
}

#[test]
fn what_is_no_disk_is_not_opened() {
    let at = folder();
    let fifo = at.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for path in [fifo.as_path(), at.path(), Path::new("/dev/zero")] {
        assert_eq!(
            references(path).unwrap_err().kind(),
            io::ErrorKind::InvalidInput,
            "{}",
            path.display()
        );
    }
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in 2..4_u8) {
        let mut start = [MAGIC, &[0, 0, 0, version]].concat();
        start.extend(&bytes);
        let _ = Header::read(&start);
        let _ = locate(&bytes, Path::new("/"));
    }
}
