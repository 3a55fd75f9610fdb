//! Where the files are looked for, and what becomes of those that cannot be read.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::{ffi::OsStr, fs};

use virt_unlock::config::{Problems, load};

const A: &str = "[volume.a]\ndevice = '/dev/a'\n";
const B: &str = "[volume.b]\ndevice = '/dev/b'\n";
const C: &str = "[volume.c]\ndevice = '/dev/c'\n";

/// `NAME:LINE:COLUMN: MESSAGE` of each problem.
fn list(problems: &Problems, below: &Path) -> Vec<String> {
    let lines = problems.iter().map(|found| {
        let file = found.file.strip_prefix(below).unwrap_or(found.file).display();
        let message = found.message.replace(below.to_str().unwrap(), "DIR");
        format!("{file}:{}:{}: {message}", found.line, found.column)
    });
    lines.collect()
}

#[test]
fn further_files_come_after_the_main_one_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("config.toml");
    fs::write(&main, C).unwrap();
    assert_eq!(load(Some(&main)).unwrap().files, [(main.clone(), C.to_owned())]);

    let further = directory.path().join("config.d");
    fs::create_dir(&further).unwrap();
    fs::write(further.join("20-a.toml"), A).unwrap();
    fs::write(further.join("10-b.toml"), B).unwrap();
    for not_ours in ["30.toml~", ".hidden.toml", "README"] {
        fs::write(further.join(not_ours), "[").unwrap();
    }
    let loaded = load(Some(&main)).unwrap();
    let names: Vec<&str> = loaded.config.volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["c", "b", "a"]);
    let files: Vec<&Path> = loaded
        .files
        .iter()
        .map(|(path, _)| path.strip_prefix(directory.path()).unwrap())
        .collect();
    assert_eq!(
        files,
        ["config.toml", "config.d/10-b.toml", "config.d/20-a.toml"].map(Path::new)
    );
}

#[test]
fn a_missing_main_file_is_said_with_what_to_do_and_the_others_are_still_read() {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("config.toml");
    fs::create_dir(directory.path().join("config.d")).unwrap();
    fs::write(
        directory.path().join("config.d/x.toml"),
        "[volume.a]\ndevise = 1\nafter = ['in-the-missing-one']\n",
    )
    .unwrap();
    let problems = load(Some(&main)).unwrap_err();
    assert_eq!(
        list(&problems, directory.path()),
        [
            "config.toml:0:0: there is no configuration: DIR/config.toml does not exist; create it with a [volume.NAME] table for \
             each encrypted volume (config.example.toml shows how)",
            "config.d/x.toml:1:9: [volume.a] needs `device = \"…\"`: the encrypted device, as a path or `UUID=…`",
            "config.d/x.toml:2:1: unknown key `devise` in [volume.a]; did you mean `device`?",
        ]
    );
    assert!(problems.to_string().contains("--> "), "{problems}");
}

#[test]
fn files_that_cannot_be_read_are_problems_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("config.toml");
    fs::write(&main, b"[volume.a]\ndevice = '/dev/a' # caf\xe9\ntries = 'x'\n").unwrap();
    let further = directory.path().join("config.d");
    fs::create_dir(&further).unwrap();
    fs::create_dir(further.join("1.toml")).unwrap();
    std::os::unix::fs::symlink("nowhere", further.join("2.toml")).unwrap();
    fs::write(further.join("3.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    fs::write(further.join("4.toml"), "colour = 1").unwrap();
    let problems = load(Some(&main)).unwrap_err();
    assert_eq!(
        list(&problems, directory.path()),
        [
            "config.toml:2:24: this is not UTF-8: byte 0xe9; save the file as UTF-8",
            "config.d/1.toml:0:0: cannot read DIR/config.d/1.toml: Is a directory (os error 21)",
            "config.d/2.toml:0:0: cannot read DIR/config.d/2.toml: No such file or directory (os error 2)",
            "config.d/3.toml:0:0: cannot read DIR/config.d/3.toml: it is longer than 1024 KiB, and no configuration is",
            "config.d/4.toml:1:1: unknown key `colour`; known tables: `host`, `volume`, `master`, `secret`, `domain`",
        ]
    );
}

#[test]
fn a_bare_file_name_has_its_further_files_beside_it() {
    let problems = load(Some(Path::new("there-is-no-such-file.toml"))).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems}");
    // A name that is no UTF-8 is shown all the same.
    let odd = Path::new(OsStr::from_bytes(b"/nowhere/\xff.toml"));
    assert!(load(Some(odd)).unwrap_err().to_string().contains('\u{fffd}'));
}

#[test]
fn endless_files_end() {
    let problems = load(Some(Path::new("/dev/zero"))).unwrap_err();
    assert!(problems.to_string().contains("longer than 1024 KiB"), "{problems}");
}
