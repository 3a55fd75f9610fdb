//! Completion in real shells: commands, options, and this host's volumes and guests. It never blocks, asks, or complains.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_virt-unlock");
const CONFIG: &str = r#"
[volume.mail]
device = "/dev/null"
[volume.vm]
device = "/dev/zero"
[master.office]
header = "/nowhere/office.luks"
[domain."Old server (2)"]
volumes = ["mail"]
"#;
/// What libvirt's test driver is to know: one guest on a volume, and one elsewhere.
const NODE: &str = r#"<node>
<domain type="test"><name>webserver</name><memory>1000</memory><os><type>hvm</type></os>
  <devices><disk type="block"><source dev="/dev/mapper/mail"/><target dev="vda"/></disk></devices></domain>
<domain type="test"><name>elsewhere</name><memory>1000</memory><os><type>hvm</type></os></domain>
</node>"#;

/// A configuration, the shells' scripts, and the program under its own name.
struct Place(TempDir);

impl Place {
    /// With libvirt at `uri`; `FOLDER` in it stands for this place.
    fn new(uri: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let uri = uri.replace("FOLDER", place.0.path().to_str().unwrap());
        fs::write(place.config(), format!("[host]\nlibvirt-uri = \"{uri}\"\n{CONFIG}")).unwrap();
        fs::write(place.path("node.xml"), NODE).unwrap();
        let generated = Command::new(PROGRAM)
            .args(["generate", "completions"])
            .arg(place.path("share"))
            .output()
            .unwrap();
        assert!(generated.status.success(), "{generated:?}");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    /// A program that finds ours, and no settings of whoever runs this test.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let ours = Path::new(PROGRAM).parent().unwrap();
        let path = std::env::join_paths(std::iter::once(ours.to_owned()).chain(std::env::split_paths("/usr/sbin:/usr/bin:/bin")));
        command
            .env_clear()
            .env("PATH", path.unwrap())
            .env("HOME", self.0.path())
            .env("XDG_DATA_HOME", self.path("share"))
            .env("TERM", "dumb")
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.0.path());
        command
    }

    /// What the program answers to fish for this line; words that are completed, without their explanations.
    fn asked(&self, line: &[&str]) -> Vec<String> {
        let mut command = self.command(PROGRAM);
        command
            .env("VIRT_UNLOCK_COMPLETE", "fish")
            .arg("--")
            .arg("virt-unlock")
            .args(line);
        answers(&command.output().unwrap())
    }

    /// The words of a command line that somebody types at a terminal, with a TAB at its end.
    fn typed(&self, shell: &str, before: &str, line: &str) -> Vec<String> {
        let mut command = self.command("script");
        command
            .args(["-qec", shell, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        // Typed ahead of the shell. Ctrl-A and Ctrl-E: the line becomes the arguments of a command that shows them.
        let keys = format!("{before}\n{line}\t\u{1}printf '%s\\n' \u{5}>line\nexit\n");
        child.stdin.take().unwrap().write_all(keys.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let shown = fs::read_to_string(self.path("line")).unwrap_or_else(|error| panic!("{shell}: {line}: {error}"));
        shown.lines().map(str::to_owned).collect()
    }

    fn bash(&self, line: &str) -> Vec<String> {
        self.typed("bash --norc -i", ". /usr/share/bash-completion/bash_completion", line)
    }

    fn zsh(&self, line: &str) -> Vec<String> {
        let first = "fpath=($HOME/share/zsh/vendor-completions $fpath); autoload -Uz compinit; compinit -u -D";
        self.typed("zsh -f -i", first, line)
    }
}

fn answers(output: &Output) -> Vec<String> {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

fn names(answers: &[String]) -> Vec<&str> {
    answers
        .iter()
        .map(String::as_str)
        .filter(|answer| !answer.starts_with('-'))
        .collect()
}

/// Only root can ask libvirt without being asked for a password.
fn of_libvirt<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let is_root = geteuid().is_root();
    names.iter().copied().filter(|name| is_root || *name != "webserver").collect()
}

#[test]
fn names_come_from_the_configuration_and_from_libvirt() {
    let place = Place::new("test://FOLDER/node.xml");
    let all = of_libvirt(&["Old server (2)", "mail", "vm", "webserver"]);
    for verb in ["up", "down", "plan"] {
        assert_eq!(names(&place.asked(&["--config", "config.toml", verb, ""])), all, "{verb}");
        assert_eq!(
            names(&place.asked(&[verb, "--config=config.toml", "vm", "v"])),
            ["vm"],
            "{verb}"
        );
    }
    for verb in ["status", "check"] {
        assert!(
            names(&place.asked(&["--config", "config.toml", verb, ""])).is_empty(),
            "{verb}"
        );
    }
    // Of masters before volumes: libvirt and its guests have no part in that.
    for verb in ["enroll", "revoke"] {
        let asked = |line: &[&str]| place.asked(&[&["--config", "config.toml", "master", verb], line].concat());
        assert_eq!(names(&asked(&[""])), ["office"], "{verb}");
        assert_eq!(names(&asked(&["office", "mail", "v"])), ["vm"], "{verb}");
    }
    let plan = place.asked(&["plan", "--"]);
    assert!(
        ["--down", "--json", "--dot"]
            .iter()
            .all(|option| plan.contains(&(*option).to_owned())),
        "{plan:?}"
    );
    let verbs = place.asked(&[""]);
    assert!(
        verbs.contains(&"up".to_owned()) && !verbs.contains(&"service".to_owned()),
        "{verbs:?}"
    );
}

#[test]
fn guests_come_from_the_note_too() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let place = Place::new("qemu+ssh://nowhere/system");
    let asked = |note: &str| {
        let script = format!(
            r"mount -t tmpfs tmpfs /var/lib && mkdir /var/lib/virt-unlock && printf %s '{note}' >/var/lib/virt-unlock/guests.json &&
               VIRT_UNLOCK_COMPLETE=fish exec virt-unlock -- virt-unlock --config config.toml up ''"
        );
        answers(&place.command("unshare").args(["-m", "sh", "-c", &script]).output().unwrap())
    };
    let found = asked(r#"{"vm": ["chat", "wiki"], "gone": ["old"]}"#);
    assert_eq!(names(&found), ["Old server (2)", "chat", "mail", "vm", "wiki"]);
    assert_eq!(names(&asked("{")), ["Old server (2)", "mail", "vm"]);
}

#[test]
fn where_there_is_nothing_to_say_nothing_is_said() {
    let place = Place::new("test:///default");
    for text in ["[volume", "[volume.mail]\ndevise = 1\n", ""] {
        fs::write(place.path("wrong.toml"), text).unwrap();
        assert!(names(&place.asked(&["--config", "wrong.toml", "up", ""])).is_empty());
    }
    assert!(names(&place.asked(&["--config", "/nowhere.toml", "up", ""])).is_empty());
    assert!(names(&place.asked(&["up", ""])).is_empty() || Path::new("/etc/virt-unlock/config.toml").exists());
    // A shell of which this version knows nothing any more, or not yet.
    let unknown = place
        .command(PROGRAM)
        .env("VIRT_UNLOCK_COMPLETE", "csh")
        .args(["--", "virt-unlock", ""])
        .output()
        .unwrap();
    assert!(
        !unknown.status.success() && unknown.stdout.is_empty() && unknown.stderr.is_empty(),
        "{unknown:?}"
    );
}

#[test]
fn nobody_waits_for_a_libvirt_that_does_not_answer() {
    let place = Place::new("qemu+unix:///system?socket=FOLDER/socket");
    let _deaf = UnixListener::bind(place.path("socket")).unwrap();
    let begun = Instant::now();
    let found = place.asked(&["--config", "config.toml", "up", ""]);
    assert_eq!(names(&found), ["Old server (2)", "mail", "vm"]);
    // libvirt's own patience is 30 s.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn a_variable_of_somebody_else_s_changes_nothing() {
    let place = Place::new("test:///default");
    let version = place
        .command(PROGRAM)
        .env("COMPLETE", "bash")
        .arg("--version")
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&version.stdout).starts_with("virt-unlock "),
        "{version:?}"
    );
}

#[test]
fn bash_completes() {
    let place = Place::new("test:///default");
    let config = ["virt-unlock", "--config", "config.toml"];
    assert_eq!(place.bash("virt-unlock sta"), ["virt-unlock", "status"]);
    assert_eq!(place.bash("virt-unlock --config conf"), config);
    for verb in ["up", "down", "plan"] {
        let line = format!("virt-unlock --config config.toml {verb} v");
        assert_eq!(place.bash(&line), [&config[..], &[verb, "vm"]].concat());
    }
    assert_eq!(place.bash("virt-unlock --config=config.toml up v")[3..], ["vm"]);
    // What a shell would take apart is quoted.
    let guest = [&config[..], &["up", "Old server (2)"]].concat();
    assert_eq!(place.bash("virt-unlock --config config.toml up O"), guest);
    assert_eq!(place.bash("virt-unlock --config config.toml up Old\\ s"), guest);
}

#[test]
fn bash_lists_everything_that_could_stand_there() {
    let place = Place::new("test:///default");
    // What bash does at TAB, and what a loader such as bash-completion does before.
    let script = r#"
        . "$XDG_DATA_HOME/bash-completion/completions/virt-unlock"
        complete -p virt-unlock >/dev/null || exit 1
        COMP_WORDS=(virt-unlock --config config.toml up "") COMP_CWORD=4 COMP_TYPE=63
        _clap_complete_virt_unlock virt-unlock "" up
        printf '%s\n' "${COMPREPLY[@]}""#;
    let listed = answers(&place.command("bash").args(["--norc", "-c", script]).output().unwrap());
    assert_eq!(names(&listed), [r"Old\ server\ \(2\)", "mail", "vm"]);
}

#[test]
fn zsh_completes() {
    let place = Place::new("test:///default");
    assert_eq!(place.zsh("virt-unlock sta"), ["virt-unlock", "status"]);
    let words = ["virt-unlock", "--config", "config.toml", "up", "vm"];
    assert_eq!(place.zsh("virt-unlock --config config.toml up v"), words);
    let words = ["virt-unlock", "--config", "config.toml", "down", "Old server (2)"];
    assert_eq!(place.zsh("virt-unlock --config config.toml down O"), words);
}

#[test]
fn fish_completes() {
    let place = Place::new("test:///default");
    let asked = |line: &str| {
        let script = format!("source share/fish/vendor_completions.d/virt-unlock.fish; complete -C'{line}'");
        answers(&place.command("fish").args(["-N", "-c", &script]).output().unwrap())
    };
    let all = asked("virt-unlock --config config.toml up ");
    assert_eq!(names(&all), ["Old server (2)", "mail", "vm"]);
    assert_eq!(asked("virt-unlock --config config.toml plan v"), ["vm"]);
    assert_eq!(asked("virt-unlock sta"), ["status"]);
}
