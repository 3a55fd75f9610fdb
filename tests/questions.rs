//! Questions by the real systemd-ask-password, answered by an agent of this test. Needs root, as asking does.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::termios::{Termios, tcgetattr};
use virt_unlock::cancel::Cancel;
use virt_unlock::host::questions::AskPassword;
use virt_unlock::host::{Question, QuestionError, Questions};

const QUESTIONS: &str = "/run/systemd/ask-password";
const LIMIT: Duration = Duration::from_secs(30);
const PASSPHRASE: &str = "correct horse öäü";

/// An agent at a terminal answers every open question on the host: while one runs, no other test may ask.
static AT_A_TERMINAL: RwLock<()> = RwLock::new(());

macro_rules! needs_root {
    () => {
        needs_root!(AT_A_TERMINAL.read());
    };
    ($turn:expr) => {
        let _turn = $turn.unwrap_or_else(PoisonError::into_inner);
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root may put questions into {QUESTIONS}");
            return;
        }
    };
}

/// A question that no other test asks.
fn question(words: &str) -> Question {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    Question {
        words: words.to_owned(),
        id: format!(
            "cryptsetup:/dev/test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ),
    }
}

/// Looks until there is something.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An open question, as an agent sees it.
struct Open {
    file: PathBuf,
    content: String,
}

impl Open {
    fn await_it(question: &Question) -> Self {
        let id = format!("Id={}", question.id);
        until(&id, || {
            let files = fs::read_dir(QUESTIONS).ok()?.flatten().map(|entry| entry.path());
            let mut asks = files.filter(|file| {
                file.file_name()
                    .is_some_and(|name| name.as_encoded_bytes().starts_with(b"ask."))
            });
            asks.find_map(|file| {
                let content = fs::read_to_string(&file).ok()?;
                content.lines().any(|line| line == id).then_some(Self { file, content })
            })
        })
    }

    fn value(&self, key: &str) -> &str {
        let found = self
            .content
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {key}= in {}", self.content))
    }

    fn reply(&self, bytes: &[u8]) {
        UnixDatagram::unbound().unwrap().send_to(bytes, self.value("Socket")).unwrap();
    }

    fn await_its_end(&self) {
        until("the end of the question", || (!self.file.exists()).then_some(()));
    }
}

/// Asks, and sends `reply` to the question.
fn ask_and_reply(question: &Question, reply: &[u8]) -> Result<Vec<u8>, QuestionError> {
    let cancel = Cancel::new().unwrap();
    thread::scope(|scope| {
        let asking = scope.spawn(|| AskPassword { terminal: false }.ask(question, &cancel));
        let open = Open::await_it(question);
        open.reply(reply);
        let answer = asking.join().unwrap();
        assert!(!open.file.exists(), "the question is still there");
        answer.map(|secret| secret.expose().to_vec())
    })
}

#[test]
fn an_answer_comes_back_as_it_was_typed() {
    needs_root!();
    let answer = ask_and_reply(&question("Passphrase:"), format!("+{PASSPHRASE}\0").as_bytes());
    assert_eq!(answer, Ok(PASSPHRASE.as_bytes().to_vec()));
    assert_eq!(
        ask_and_reply(&question("Passphrase:"), b"+ends in a space \0"),
        Ok(b"ends in a space ".to_vec())
    );
}

#[test]
fn the_answer_of_an_ordinary_user_is_none() {
    needs_root!();
    let as_nobody = |socket: &str| {
        let script = r#"use Socket; socket(S, AF_UNIX, SOCK_DGRAM, 0) or die;
            send(S, "+false\0", 0, pack_sockaddr_un($ARGV[0])) or die "$!\n""#;
        Command::new("perl")
            .args(["-e", script, socket])
            .uid(65534)
            .gid(65534)
            .current_dir("/")
            .output()
    };
    let (question, cancel) = (question("Passphrase:"), Cancel::new().unwrap());
    thread::scope(|scope| {
        let asking = scope.spawn(|| AskPassword { terminal: false }.ask(&question, &cancel));
        let open = Open::await_it(&question);
        let socket = open.value("Socket");
        match as_nobody(socket) {
            Ok(tried) => {
                let words = String::from_utf8_lossy(&tried.stderr).into_owned();
                assert!(!tried.status.success() && words.contains("Permission denied"), "{words}");
                // If it could reach it, it would not be heard: what comes is not root's.
                fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
                assert!(as_nobody(socket).unwrap().status.success());
            }
            Err(error) => println!("skipped: no perl: {error}"),
        }
        open.reply(b"+true\0");
        assert_eq!(asking.join().unwrap().unwrap().expose(), b"true");
    });
}

#[test]
fn an_empty_answer_is_an_answer() {
    needs_root!();
    assert_eq!(ask_and_reply(&question("Passphrase:"), b"+"), Ok(Vec::new()));
    assert_eq!(ask_and_reply(&question("Passphrase:"), b"+\0"), Ok(Vec::new()));
}

#[test]
fn of_several_passphrases_in_one_answer_the_first_is_taken() {
    needs_root!();
    assert_eq!(ask_and_reply(&question("Passphrase:"), b"+one\0two\0"), Ok(b"one".to_vec()));
}

#[test]
fn an_answer_that_is_no_passphrase_is_refused_with_words() {
    needs_root!();
    let mut long = vec![b'x'; 513];
    long.insert(0, b'+');
    let Err(QuestionError::Failed(words)) = ask_and_reply(&question("Passphrase:"), &long) else {
        panic!("taken")
    };
    assert!(words.contains("longer than 512 bytes"), "{words}");
}

#[test]
fn who_declines_is_told_from_a_failure() {
    needs_root!();
    assert_eq!(ask_and_reply(&question("Passphrase:"), b"-"), Err(QuestionError::Declined));
}

#[test]
fn words_and_id_arrive_unchanged_and_nothing_runs_out() {
    needs_root!();
    let words = "-x \"quoted\" 'so' \\ back \\n \\x41 %s %% $HOME `id` größe 鍵 (guest a;b), try 2 of 3:";
    let question = question(words);
    let cancel = Cancel::new().unwrap();
    thread::scope(|scope| {
        let asking = scope.spawn(|| AskPassword { terminal: false }.ask(&question, &cancel));
        let open = Open::await_it(&question);
        assert_eq!(open.value("Message"), words);
        assert_eq!(open.value("Id"), question.id);
        assert_eq!(open.value("NotAfter"), "0");
        assert_eq!(open.value("Echo"), "0");
        assert_eq!(open.value("AcceptCached"), "0");
        open.reply(b"-");
        asking.join().unwrap().unwrap_err();
    });
}

#[test]
fn a_question_that_is_taken_back_is_gone() {
    needs_root!();
    let (question, cancel) = (question("Passphrase:"), Cancel::new().unwrap());
    thread::scope(|scope| {
        let asking = scope.spawn(|| AskPassword { terminal: false }.ask(&question, &cancel));
        let open = Open::await_it(&question);
        cancel.raise();
        assert_eq!(asking.join().unwrap().unwrap_err(), QuestionError::Cancelled);
        assert!(!open.file.exists());
    });
}

#[test]
fn a_passphrase_is_in_no_command_line() {
    needs_root!();
    let secret = "in-no-command-line-2718281828";
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut seen = false;
            while !over.load(Ordering::Relaxed) {
                for process in fs::read_dir("/proc").unwrap().flatten() {
                    for file in ["cmdline", "environ"] {
                        let bytes = fs::read(process.path().join(file)).unwrap_or_default();
                        seen |= bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                    }
                }
            }
            seen
        });
        for _ in 0..5 {
            ask_and_reply(&question("Passphrase:"), format!("+{secret}\0").as_bytes()).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(!looking.join().unwrap());
    });
}

/// Not a test by itself: what [`asker`] runs in a process of its own.
#[test]
#[ignore = "asks what another test told it to"]
fn ask_in_this_process() {
    let Ok(id) = std::env::var("ASK_ID") else { return };
    let question = Question {
        words: "Passphrase for volume mail (guest mailserver), try 1 of 3:".to_owned(),
        id,
    };
    let terminal = std::env::var_os("ASK_TERMINAL").is_some();
    let cancel = Cancel::new().unwrap();
    let mut interrupts = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT]).unwrap();
    let flag = cancel.clone();
    thread::spawn(move || interrupts.forever().for_each(|_| flag.raise()));
    let answer = AskPassword { terminal }.ask(&question, &cancel);
    let said = match answer {
        Ok(secret) => format!("answer {}", String::from_utf8_lossy(secret.expose())),
        Err(error) => error.to_string(),
    };
    fs::write(std::env::var_os("ASK_RESULT").unwrap(), said).unwrap();
}

/// A process that puts the question and writes what comes of it to `result`.
fn asker(question: &Question, result: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "ask_in_this_process", "--ignored", "--nocapture"])
        .env("ASK_ID", &question.id)
        .env("ASK_RESULT", result)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[test]
fn a_question_does_not_outlive_who_asks() {
    needs_root!();
    let (question, dir) = (question("Passphrase:"), tempfile::tempdir().unwrap());
    let mut process = asker(&question, &dir.path().join("result")).spawn().unwrap();
    let open = Open::await_it(&question);
    process.kill().unwrap();
    process.wait().unwrap();
    open.await_its_end();
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let (question, dir) = (question("Passphrase:"), tempfile::tempdir().unwrap());
    let result = dir.path().join("result");
    asker(&question, &result).env("PATH", dir.path()).status().unwrap();
    let said = fs::read_to_string(result).unwrap();
    assert!(
        said.contains("systemd-ask-password") && said.contains("package systemd"),
        "{said}"
    );
}

/// A person at a terminal of their own, and the process that asks there.
struct Person {
    keyboard: File,
    screen: File,
    process: Child,
    before: Termios,
    seen: Vec<u8>,
    line: OwnedFd,
    result: PathBuf,
}

impl Person {
    fn sits_down(question: &Question, dir: &Path) -> Self {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let line = pty.slave.try_clone().unwrap();
        let result = dir.join("result");
        let mut command = asker(question, &result);
        command.env("ASK_TERMINAL", "1").env("TERM", "linux").stdin(pty.slave);
        let own_terminal = || {
            nix::unistd::setsid()?;
            // SAFETY: standard input is the new terminal; the call takes no pointer.
            nix::errno::Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
            Ok(())
        };
        // SAFETY: between fork and exec it calls setsid(2) and ioctl(2) alone, and allocates nothing.
        let process = unsafe { command.pre_exec(own_terminal) }.spawn().unwrap();
        let keyboard = File::from(pty.master);
        Self {
            screen: keyboard.try_clone().unwrap(),
            keyboard,
            process,
            before,
            seen: Vec::new(),
            line,
            result,
        }
    }

    /// Reads the screen until these words are on it.
    fn reads(&mut self, words: &str) {
        let deadline = Instant::now() + LIMIT;
        while !String::from_utf8_lossy(&self.seen).contains(words) {
            assert!(Instant::now() < deadline, "not on the screen: {words}");
            let mut piece = [0; 1024];
            let mut fds = [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(&self.screen),
                nix::poll::PollFlags::POLLIN,
            )];
            if nix::poll::poll(&mut fds, 100_u16).unwrap() > 0 {
                let count = self.screen.read(&mut piece).unwrap();
                self.seen.extend_from_slice(&piece[..count]);
            }
        }
    }

    /// Types once the terminal takes keys for the question: the words are there a moment before that.
    fn types(&mut self, keys: &str) {
        until("the question's settings of the terminal", || {
            (tcgetattr(&self.line).unwrap() != self.before).then_some(())
        });
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// What came of it, when the process is through; the terminal must be as it was, and nobody left at it.
    fn result(mut self) -> String {
        until("the end of the process", || self.process.try_wait().unwrap());
        let said = fs::read_to_string(&self.result).unwrap();
        assert_eq!(tcgetattr(&self.line).unwrap(), self.before, "the terminal's settings");
        said
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_person_at_the_terminal_is_asked_there() {
    needs_root!(AT_A_TERMINAL.write());
    let (question, dir) = (question("Passphrase:"), tempfile::tempdir().unwrap());
    let mut person = Person::sits_down(&question, dir.path());
    person.reads("Passphrase for volume mail (guest mailserver), try 1 of 3:");
    person.types("secret\n");
    assert_eq!(person.result(), "answer secret");
}

#[test]
fn an_answer_from_elsewhere_frees_the_terminal() {
    needs_root!(AT_A_TERMINAL.write());
    let (question, dir) = (question("Passphrase:"), tempfile::tempdir().unwrap());
    let mut person = Person::sits_down(&question, dir.path());
    person.reads("Passphrase for volume mail");
    Open::await_it(&question).reply(b"+elsewhere\0");
    assert_eq!(person.result(), "answer elsewhere");
}

#[test]
fn ctrl_c_takes_the_question_back_and_frees_the_terminal() {
    needs_root!(AT_A_TERMINAL.write());
    let (question, dir) = (question("Passphrase:"), tempfile::tempdir().unwrap());
    let mut person = Person::sits_down(&question, dir.path());
    person.reads("Passphrase for volume mail");
    let open = Open::await_it(&question);
    person.types("half a pass\x03");
    // The agent dies of it with the echo off, and sets nothing back.
    assert_eq!(person.result(), "cancelled");
    assert!(!open.file.exists());
}
