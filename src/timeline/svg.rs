//! A timeline as a picture (SVG 1.1), which a browser shows.

use super::{Row, Standing, Timeline, marks, seconds, summary, words};
use crate::event::Phase;

/// Sizes in pixels.
const NAMES: f64 = 220.0;
const BARS: f64 = 900.0;
const ROW: f64 = 22.0;
const TOP: f64 = 70.0;
const EDGE: f64 = 20.0;
/// Room for the time behind the last bar.
const BEHIND: f64 = 90.0;

const STYLE: &str = "\
text{font:13px sans-serif;fill:#222}.title{font-size:16px;font-weight:bold}.mark,.end{fill:#666;font-size:11px}\
.failed{fill:#c0221f}.grid{stroke:#ddd}.name{text-anchor:end}\
.device{fill:#c9ccd1}.header{fill:#9aa5b1}.question{fill:#4f9fd8}.room{fill:#e6dcc3}.key{fill:#e0a030}\
.mount{fill:#8bbf6a}.pool{fill:#5fa58c}.definition{fill:#b9a3d0}.start{fill:#4c9a4c}.ready{fill:#b5d6a0}";

/// The timeline as a document.
pub fn svg(timeline: &Timeline) -> String {
    let mut picture = Picture::of(timeline);
    let below = y_of(timeline.rows.len());
    picture.text("title", EDGE, 24.0, "The last way up");
    let caption = format!("Seconds since the kernel started. {}.", summary(timeline));
    picture.text("mark", EDGE, 42.0, &caption);
    for (at, words) in marks(timeline.begin(), timeline.end(), 12) {
        let x = picture.x_of(at);
        picture.line(x, TOP - 16.0, below);
        picture.text("mark", x + 3.0, TOP - 6.0, &words);
    }
    for (place, row) in timeline.rows.iter().enumerate() {
        picture.row(place, row);
    }
    let used = Phase::ALL.into_iter().filter(|phase| timeline.count(*phase) > 0);
    for (line, phase) in used.enumerate() {
        let y = below + EDGE + y_of(line) - TOP;
        picture.rect(phase.word(), NAMES, y, 3.0 * EDGE, None);
        picture.text("", NAMES + 4.0 * EDGE, y + 12.0, words(phase));
    }
    picture.out + "</svg>\n"
}

struct Picture {
    out: String,
    begin: u64,
    length: u64,
}

impl Picture {
    fn of(timeline: &Timeline) -> Self {
        let mut picture = Self {
            out: String::new(),
            begin: timeline.begin(),
            length: (timeline.end() - timeline.begin()).max(1),
        };
        let width = NAMES + BARS + BEHIND;
        let height = y_of(timeline.rows.len() + Phase::ALL.len()) + 2.0 * EDGE;
        picture.out = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
             <style>{STYLE}</style>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
        );
        picture
    }

    #[allow(clippy::cast_precision_loss, reason = "pixels")]
    fn x_of(&self, at: u64) -> f64 {
        NAMES + BARS * (at.saturating_sub(self.begin) as f64) / self.length as f64
    }

    fn row(&mut self, place: usize, row: &Row) {
        let y = y_of(place) + 4.0;
        self.text("name", NAMES - 10.0, y + 12.0, &row.layer);
        for bar in &row.bars {
            let (from, to) = (self.x_of(bar.begin), self.x_of(bar.end));
            let title = format!("{}: {}, {}", row.layer, words(bar.phase), seconds(bar.end - bar.begin, 2));
            self.rect(bar.phase.word(), from, y, to - from, Some(&title));
        }
        let end = row.bars.iter().map(|bar| bar.end).max().unwrap_or(self.begin);
        let (class, words) = match row.standing {
            Standing::Up => ("end", seconds(end, 1)),
            Standing::Asked => ("end", "asks".to_owned()),
            Standing::Failed => ("failed", "failed".to_owned()),
        };
        self.text(class, self.x_of(end) + 6.0, y + 12.0, &words);
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        self.out += &format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n", escaped(text));
    }

    fn line(&mut self, x: f64, from: f64, to: f64) {
        self.out += &format!("<line class=\"grid\" x1=\"{x:.1}\" y1=\"{from:.1}\" x2=\"{x:.1}\" y2=\"{to:.1}\"/>\n");
    }

    /// What is too short to be seen gets a pixel.
    fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, title: Option<&str>) {
        let title = title.map_or_else(String::new, |title| format!("<title>{}</title>", escaped(title)));
        self.out += &format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\">{title}</rect>\n",
            width.max(1.0),
            ROW - 8.0
        );
    }
}

fn y_of(row: usize) -> f64 {
    TOP + f64::from(u32::try_from(row).unwrap_or(u32::MAX)) * ROW
}

/// Text as it may stand in XML. Control characters may not at all; the names have none (`text::plain`).
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
