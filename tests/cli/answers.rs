//! What `plan`, `status` and `check` answer, for people and for programs.

use std::fs;

use serde_json::Value;

use crate::program::{Place, bare, controls, is_there, lines, needs_root};

const TEST_GUEST: &str = "[domain.test]\nvolumes = [\"mail\"]\n";
const NO_LIBVIRT: &str = "[host]\nlibvirt-uri = \"qemu+unix:///system?socket=/nowhere\"\n[volume.mail]\ndevice = \"/dev/null\"\n";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn an_empty_configuration_is_no_error_and_says_what_to_do() {
    needs_root!();
    let place = Place::new("");
    for verb in ["up", "down", "plan", "status", "check"] {
        let ran = place.run_and_look(verb);
        assert_eq!((ran.status, ran.left.as_str()), (0, ""), "{verb}: {ran:?}");
        assert!((ran.out + &ran.err).contains("[volume.NAME] table"), "{verb}");
    }
    assert_eq!(json(&place.run("status --json").out)["state"], "up");
}

#[test]
fn a_libvirt_that_is_not_there_is_said() {
    needs_root!();
    let place = Place::new(NO_LIBVIRT);
    let ran = place.run("plan");
    assert_eq!(ran.status, 1);
    assert!(ran.out.contains("mail"), "{}", ran.out);
    assert!(
        ran.err.contains("/nowhere") && ran.err.contains("without guests"),
        "{}",
        ran.err
    );
    let status = json(&place.run("status --json").out);
    assert!(status["libvirt"].as_str().unwrap().contains("/nowhere"), "{status}");
}

#[test]
fn status_in_json_keeps_the_contract() {
    needs_root!();
    let place = Place::with_volume(&format!(
        "{TEST_GUEST}[volume.vm]\ndevice = \"/dev/not-there\"\nmount = \"/srv/not-there\"\n[domain.nobody]\n"
    ));
    let ran = place.run("status --json");
    assert_eq!((ran.status, ran.err.as_str()), (1, ""));
    let status = json(&ran.out);
    assert_eq!(status["version"], 1);
    assert_eq!(status["state"], "degraded");
    let (mail, vm) = (&status["volumes"][0], &status["volumes"][1]);
    for volume in [mail, vm] {
        assert_eq!(
            keys(volume),
            ["device", "mount", "name", "reason", "state", "used_by", "wanted"]
        );
    }
    assert_eq!((&mail["name"], &mail["state"]), (&"mail".into(), &"closed".into()));
    assert_eq!(mail["device"], place.path("disk").display().to_string());
    assert_eq!(mail["used_by"], serde_json::json!(["test"]));
    assert!(mail["mount"].is_null() && mail["reason"].is_null(), "{mail}");
    assert_eq!((&vm["name"], &vm["state"]), (&"vm".into(), &"missing".into()));
    assert_eq!(
        vm["mount"],
        serde_json::json!({ "where": "/srv/not-there", "mounted": false })
    );
    assert!(vm["reason"].as_str().unwrap().contains("not there"), "{vm}");

    // Of the machine that the test runs on; what it says has its own tests.
    assert!(keys(&status).contains(&"last_shutdown"), "{status}");

    let (nobody, test) = (&status["domains"][0], &status["domains"][1]);
    for domain in [nobody, test] {
        assert_eq!(keys(domain), ["name", "reason", "saved", "state", "volumes", "wanted"]);
    }
    assert_eq!((&test["name"], &test["state"]), (&"test".into(), &"running".into()));
    assert_eq!(test["volumes"], serde_json::json!(["mail"]));
    assert!(test["wanted"].is_boolean() && test["reason"].is_null(), "{test}");
    // A slip of the pen in a table's name is not silently nothing.
    assert_eq!((&nobody["name"], &nobody["state"]), (&"nobody".into(), &"missing".into()));
    assert!(nobody["reason"].as_str().unwrap().contains("no such guest"), "{nobody}");
}

#[test]
fn plan_in_json_and_for_people_say_the_same() {
    needs_root!();
    let place = Place::with_volume(TEST_GUEST);
    let ran = place.run("plan --json");
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let plan = json(&ran.out);
    assert_eq!((&plan["version"], &plan["direction"]), (&1.into(), &"up".into()));
    let steps = plan["steps"].as_array().unwrap();
    let people = place.run("plan");
    assert_eq!(people.out.lines().count(), steps.len());
    for (step, line) in steps.iter().zip(people.out.lines()) {
        assert_eq!(keys(step), ["action", "kind", "name", "reason", "waits_for"]);
        for key in ["action", "kind", "name", "reason"] {
            assert!(line.contains(step[key].as_str().unwrap()), "{line}: {step}");
        }
    }
    assert_eq!(
        steps[1]["waits_for"],
        serde_json::json!([{ "kind": "volume", "name": "mail", "must_succeed": true }])
    );
    let down = json(&place.run("plan --down --json").out);
    assert_eq!(down["direction"], "down");
    assert_eq!(
        (&down["steps"][0]["action"], &down["steps"][0]["name"]),
        (&"stop".into(), &"test".into())
    );
}

#[test]
fn a_table_whose_guest_libvirt_does_not_know_is_said_by_the_plan_and_by_check() {
    needs_root!();
    let place = Place::with_volume("[domain.tset]\n");
    let plan = place.run("plan");
    assert_eq!(plan.status, 1, "{plan:?}");
    assert!(
        plan.err.contains("guest tset: libvirt has no guest of this name"),
        "{}",
        plan.err
    );
    let check = place.run("check");
    assert!(check.status == 1 && check.out.contains("error: [domain.tset]:"), "{check:?}");
    let never = Place::with_volume("[domain.tset]\nstart = false\n").run("plan");
    assert_eq!((never.status, never.err.as_str()), (0, ""));
}

/// The tokens of Graphviz's language: words, quoted strings, and marks.
fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char == '"' {
            let mut quoted = String::new();
            loop {
                match chars.next().unwrap() {
                    '"' => break,
                    '\\' => quoted.extend(['\\', chars.next().unwrap()]),
                    char => quoted.push(char),
                }
            }
            found.push(format!("\"{quoted}\""));
        } else if char.is_alphanumeric() {
            let mut word = char.to_string();
            while let Some(char) = chars.next_if(|char| char.is_alphanumeric()) {
                word.push(char);
            }
            found.push(word);
        } else if !char.is_whitespace() {
            found.push(char.to_string());
        }
    }
    found
}

#[test]
fn plan_as_a_graph_is_well_formed() {
    needs_root!();
    let place = Place::with_volume(&format!("{TEST_GUEST}[volume.vm]\ndevice = \"/dev/a\\\"b\\\\\"\n"));
    let ran = place.run("plan --dot");
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let tokens = tokens(&ran.out);
    assert_eq!(tokens[..3], ["digraph", "plan", "{"]);
    assert_eq!(tokens.last().unwrap(), "}");
    for (open, close) in [("{", "}"), ("[", "]")] {
        let count = |mark: &str| tokens.iter().filter(|token| *token == mark).count();
        assert_eq!(count(open), count(close));
    }
    assert!(tokens.contains(&"\"volume mail\\nopen\"".to_owned()), "{tokens:?}");
    assert!(ran.out.contains("s0 -> "), "{}", ran.out);
    if is_there("dot") {
        fs::write(place.path("plan.dot"), &ran.out).unwrap();
        let drawn = bare("dot", &["-Tplain", place.path("plan.dot").to_str().unwrap()]);
        assert_eq!((drawn.status, drawn.err.as_str()), (0, ""));
    }
}

#[test]
fn check_reads_the_header_of_a_plain_file_and_each_finding_has_a_remedy() {
    needs_root!();
    let place = Place::with_volume(&format!(
        "{TEST_GUEST}after = [\"who\"]\n[domain.who]\n[volume.vm]\ndevice = \"UUID=00000000-0000-4000-8000-000000000000\"\n"
    ));
    let ran = place.run("check");
    assert_eq!((ran.status, ran.err.as_str()), (1, ""));
    let (errors, warnings) = (lines(&ran.out, "error: "), lines(&ran.out, "warning: "));
    assert_eq!(
        lines(&ran.out, "    remedy: ").len(),
        errors.len() + warnings.len(),
        "{}",
        ran.out
    );
    assert!(
        errors
            .iter()
            .any(|line| line.contains("volume vm: its device UUID=00000000-0000-4000-8000-000000000000 is not there")),
        "{errors:?}"
    );
    assert!(!ran.out.contains("volume mail:"), "{}", ran.out);
    let quiet = place.run("check -q");
    assert_eq!(
        (lines(&quiet.out, "error: "), lines(&quiet.out, "warning: ").len()),
        (errors, 0)
    );

    // The header is damaged.
    fs::write(place.path("disk"), vec![0; 1 << 20]).unwrap();
    let ran = place.run("check");
    assert!(ran.out.contains("error: volume mail:"), "{}", ran.out);
    // Somebody else could change what root does.
    fs::set_permissions(place.config(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let ran = place.run("check");
    assert!(
        ran.out.contains("config.toml can be written by others than root"),
        "{}",
        ran.out
    );
}

#[test]
fn quiet_shows_only_what_is_not_as_it_should_be() {
    needs_root!();
    let place = Place::with_volume(TEST_GUEST);
    assert_eq!(place.run("plan -q").out, "");
    let status = place.run("status -q");
    assert!(
        status.out.contains("mail  closed") && lines(&status.out, "guest").is_empty(),
        "{}",
        status.out
    );
    let up = Place::new("").run("up -q");
    assert_eq!((up.status, up.out + &up.err), (0, String::new()));
    // On the way down nothing is to be done: only who wants to know all is told of each.
    let place = Place::with_volume("");
    assert!(!place.run("down").err.contains("closed already"));
    let all = place.run("down -v");
    assert!(all.out.contains("volume mail: closed already"), "{all:?}");
}

#[test]
fn nothing_that_libvirt_names_reaches_the_terminal_as_a_command() {
    needs_root!();
    let place = Place::with_volume("");
    let domain = "<node><domain type='test'><name>e\u{202e}vil</name><memory>1</memory><os><type>hvm</type></os>\
        <devices>\
        <disk type='block'><source dev='/dev/mapper/mail'/><target dev='sda'/></disk>\
        <disk type='block'><source dev='/dev/mapper/x&#x9b;2J&#10;y'/><target dev='sdb'/></disk>\
        </devices></domain></node>";
    fs::write(place.path("node.xml"), domain).unwrap();
    let uri = format!("test://{}", place.path("node.xml").display());
    let config = fs::read_to_string(place.config()).unwrap().replace("test:///default", &uri);
    fs::write(place.config(), config).unwrap();
    for verb in ["plan", "plan --dot", "status", "check"] {
        let ran = place.run(verb);
        assert!(ran.out.contains("e?vil"), "{verb}: {ran:?}");
        assert_eq!(controls(&(ran.out + &ran.err)), "", "{verb}");
    }
    assert!(place.run("check").out.contains("/dev/mapper/x?2J y is not there"));
}
