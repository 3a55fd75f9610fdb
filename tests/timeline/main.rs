//! The timeline: from lines of `journalctl -o json` to text and to a picture.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use virt_unlock::event::Phase;
use virt_unlock::report::{Colour, ids};
use virt_unlock::timeline::{Standing, Timeline, entries, svg, text};

/// An entry as `journalctl -o json` writes it; `at` in milliseconds.
fn line(at: u64, id: &str, priority: &str, layer: &str, spans: &[(&str, u64, u64)]) -> String {
    let spans: Vec<String> = spans
        .iter()
        .map(|(word, begin, end)| format!("{word} {} {}", begin * 1000, end * 1000))
        .collect();
    let mut entry = serde_json::json!({
        "__MONOTONIC_TIMESTAMP": (at * 1000).to_string(),
        "MESSAGE_ID": id,
        "PRIORITY": priority,
        "VIRT_UNLOCK_LAYER": layer,
    });
    match &spans[..] {
        [] => {}
        // journalctl makes an array only of what stands more than once.
        [one] => entry["VIRT_UNLOCK_SPAN"] = one.clone().into(),
        _ => entry["VIRT_UNLOCK_SPAN"] = spans.into(),
    }
    entry.to_string()
}

/// Two volumes of one group, a mount, two guests, one of which did not come up.
fn way() -> Vec<String> {
    vec![
        line(18_300, ids::QUESTION_OPEN, "6", "volume mail", &[]),
        line(
            24_000,
            ids::VOLUME_OPEN,
            "5",
            "volume mail",
            &[
                ("header", 18_000, 18_200),
                ("question", 18_300, 21_000),
                ("room", 21_001, 21_002),
                ("key", 21_100, 24_000),
            ],
        ),
        line(
            27_000,
            ids::VOLUME_OPEN,
            "5",
            "volume vm",
            &[("header", 18_010, 18_250), ("room", 24_010, 24_020), ("key", 24_020, 27_000)],
        ),
        line(28_000, ids::MOUNTED, "5", "mount vm", &[("mount", 27_050, 28_000)]),
        line(29_000, "", "5", "pool vm", &[("pool", 28_100, 29_000)]),
        line(
            30_000,
            ids::GUEST_STARTED,
            "5",
            "guest mailserver",
            &[("definition", 24_050, 24_100), ("start", 24_200, 30_000)],
        ),
        line(
            33_000,
            ids::GUEST_NOT_STARTED,
            "3",
            "guest <web&server>",
            &[("definition", 29_050, 29_100), ("start", 29_100, 33_000)],
        ),
    ]
}

fn timeline(lines: &[String], now: u64) -> Option<Timeline> {
    Timeline::last(&entries(&lines.join("\n")), now * 1000)
}

#[test]
fn a_way_up_is_drawn_as_text() {
    let timeline = timeline(&way(), 40_000).unwrap();
    let drawn = text(&timeline, 100, Colour(false));
    assert_eq!(drawn, include_str!("way.txt"), "{drawn}");
    for width in [0, 50, 79, 200] {
        let drawn = text(&timeline, width, Colour(false));
        let widest = drawn
            .lines()
            .take(timeline.rows.len() + 1)
            .map(|line| line.chars().count())
            .max();
        assert!(widest <= Some(width.max(50)), "{width}:\n{drawn}");
        // What is short is there all the same, however narrow it is.
        assert!(
            drawn.lines().any(|line| line.starts_with("mount vm") && line.contains('m')),
            "{drawn}"
        );
    }
}

#[test]
fn a_way_up_is_drawn_as_a_picture() {
    let picture = svg(&timeline(&way(), 40_000).unwrap());
    let document = roxmltree::Document::parse(&picture).unwrap_or_else(|error| panic!("{error}:\n{picture}"));
    let titles = document.descendants().filter(|node| node.has_tag_name("title")).count();
    let names = |node: &roxmltree::Node<'_, '_>| node.text() == Some("guest <web&server>");
    assert!(document.descendants().any(|node| names(&node)), "{picture}");
    assert_eq!(titles, 13, "a bar for each stretch: {picture}");
}

#[test]
fn the_time_of_others_is_not_ours() {
    let timeline = timeline(&way(), 40_000).unwrap();
    assert_eq!(timeline.after_answers(), 12_000_000);
    // 21.0 to 21.1 and 24.0 to 24.02, each before a key; everything else overlaps with something that somebody else did.
    assert_eq!(timeline.own(), 120_000);
    assert_eq!((timeline.count(Phase::Key), timeline.count(Phase::Question)), (2, 1));
}

#[test]
fn an_open_question_goes_on_until_now() {
    let asked = [line(18_300, ids::QUESTION_OPEN, "6", "volume mail", &[])];
    let open = timeline(&asked, 40_000).unwrap();
    assert_eq!(open.rows[0].standing, Standing::Asked);
    assert_eq!((open.begin(), open.end()), (18_300_000, 40_000_000));
    assert!(text(&open, 80, Colour(false)).contains("?????"));
    // Once it is through, its end is known: the question is there once.
    let through = timeline(&way(), 40_000).unwrap();
    assert_eq!(through.rows[0].bars.len(), 4);
}

#[test]
fn only_the_last_way_up_counts_whatever_the_order_of_the_lines() {
    let mut lines = vec![
        line(5_000, ids::VOLUME_OPEN, "5", "volume old", &[("key", 1_000, 5_000)]),
        line(9_000, ids::ALL_DOWN, "6", "", &[]),
    ];
    lines.extend(way());
    // Much later somebody brings up one thing more.
    let later = line(900_500, ids::GUEST_STARTED, "5", "guest late", &[("start", 900_000, 900_500)]);
    let of = |lines: &[String]| {
        timeline(lines, 1_000_000)
            .unwrap()
            .rows
            .iter()
            .map(|row| row.layer.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&lines).len(), 6);
    assert_eq!(of(&lines)[0], "volume mail");
    lines.reverse();
    assert_eq!(of(&lines)[0], "volume mail");
    lines.insert(0, later);
    assert_eq!(of(&lines), ["guest late"]);
}

#[test]
fn nonsense_in_the_journal_is_left_out() {
    let nonsense = [
        "{\"VIRT_UNLOCK_SPAN\":\"key 1 2\",\"__MONOTONIC_TIMESTAMP\":\"1\",\"VIRT_UNLOCK_LAY".to_owned(),
        line(1, "", "5", "volume a", &[("nothing", 1, 2), ("key", 3, 2)]),
        "{\"VIRT_UNLOCK_SPAN\":[\"key\",7,null],\"__MONOTONIC_TIMESTAMP\":\"x\"}".to_owned(),
        "[]".to_owned(),
    ];
    assert_eq!(timeline(&nonsense, 10), None);
    assert_eq!(timeline(&[], 10), None);
    // A moment without length, and one at the end of time.
    let odd = [line(1, "", "5", "volume a", &[("key", 1, 1)])];
    let drawn = timeline(&odd, 10).unwrap();
    assert!(text(&drawn, 80, Colour(false)).contains('#'));
    assert!(svg(&drawn).contains("volume a"));
}
