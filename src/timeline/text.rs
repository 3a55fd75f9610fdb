//! A timeline as text: a line for each layer, as wide as the terminal.

use super::{Bar, Row, Standing, Timeline, marks, seconds, summary, words};
use crate::event::Phase;
use crate::report::{Colour, Style};

/// A terminal narrower than this gets lines that wrap.
const NARROWEST: usize = 50;
/// Names longer than this are cut.
const NAME: usize = 30;
/// "123.4s" and what stands around it.
const END: usize = 9;

/// The timeline in lines of `width` columns.
pub fn text(timeline: &Timeline, width: usize, colour: Colour) -> String {
    let longest = timeline.rows.iter().map(|row| row.layer.chars().count()).max();
    let names = longest.unwrap_or(0).min(NAME);
    let scale = Scale {
        begin: timeline.begin(),
        length: (timeline.end() - timeline.begin()).max(1),
        columns: width.max(NARROWEST) - names - END - 2,
    };
    let mut out = format!("{:names$}  {}\n", "", colour.paint(Style::Dim, scale.line(timeline.end())));
    for row in &timeline.rows {
        let name: String = row.layer.chars().take(names).collect();
        out += &format!("{name:names$}  {}{}\n", scale.bars(row, colour), end(row, colour));
    }
    out + &format!(
        "\n{}Seconds since the kernel started. {}.\n",
        legend(timeline, width, colour),
        summary(timeline)
    )
}

/// What the signs mean, as many in a line as it holds.
fn legend(timeline: &Timeline, width: usize, colour: Colour) -> String {
    let (mut out, mut used) = (String::new(), 0);
    for phase in Phase::ALL.into_iter().filter(|phase| timeline.count(*phase) > 0) {
        let (sign, words) = (sign(phase).to_string(), words(phase));
        let length = sign.len() + 1 + words.len();
        if used > 0 && used + 3 + length > width {
            out.push('\n');
            used = 0;
        }
        let before = if used > 0 { "   " } else { "" };
        out += &format!("{before}{} {words}", painted(phase, &sign, colour));
        used += before.len() + length;
    }
    out + "\n"
}

fn end(row: &Row, colour: Colour) -> String {
    let at = seconds(row.bars.iter().map(|bar| bar.end).max().unwrap_or(0), 1);
    match row.standing {
        Standing::Up => format!(" {at:>7}"),
        Standing::Asked => colour.paint(Style::Waiting, format!(" {:>7}", "asks")),
        Standing::Failed => colour.paint(Style::Bad, format!(" {:>7}", "failed")),
    }
}

struct Scale {
    begin: u64,
    length: u64,
    columns: usize,
}

impl Scale {
    /// The column that a moment falls into.
    fn column(&self, at: u64) -> usize {
        let columns = self.columns as u64;
        let column = (at.saturating_sub(self.begin)).saturating_mul(columns) / self.length;
        usize::try_from(column).unwrap_or(usize::MAX).min(self.columns - 1)
    }

    /// The times, each beginning at its column.
    fn line(&self, end: u64) -> String {
        let mut line = String::new();
        for (at, words) in marks(self.begin, end, self.columns as u64 / 10) {
            let column = self.column(at);
            if column >= line.len() + usize::from(!line.is_empty()) && column + words.len() < self.columns + END {
                line += &format!("{:1$}{words}", "", column - line.len());
            }
        }
        line
    }

    /// Each column shows what took the most of its time; what is too short for that gets the column that it begins in, if nothing
    /// else has.
    fn bars(&self, row: &Row, colour: Colour) -> String {
        let mut cells: Vec<Option<Phase>> = (0..self.columns).map(|column| self.most_of(column, &row.bars)).collect();
        for bar in &row.bars {
            cells[self.column(bar.begin)].get_or_insert(bar.phase);
        }
        let mut out = String::new();
        for run in cells.chunk_by(|one, next| one == next) {
            out += &match run[0] {
                None => " ".repeat(run.len()),
                Some(phase) => painted(phase, &sign(phase).to_string().repeat(run.len()), colour),
            };
        }
        out
    }

    fn most_of(&self, column: usize, bars: &[Bar]) -> Option<Phase> {
        let moment = |column: usize| self.begin + (column as u64).saturating_mul(self.length) / self.columns as u64;
        let (from, to) = (moment(column), moment(column + 1));
        let shared = |bar: &Bar| bar.end.min(to).saturating_sub(bar.begin.max(from));
        let most = bars.iter().max_by_key(|bar| shared(bar))?;
        (shared(most) * 2 > to - from).then_some(most.phase)
    }
}

fn sign(phase: Phase) -> char {
    match phase {
        Phase::Device => '-',
        Phase::Header => 'h',
        Phase::Question => '?',
        Phase::Room => '.',
        Phase::Key => '#',
        Phase::Mount => 'm',
        Phase::Pool => 'p',
        Phase::Definition => 'd',
        Phase::Start => '=',
        Phase::Ready => '~',
    }
}

fn painted(phase: Phase, text: &str, colour: Colour) -> String {
    let style = match phase {
        Phase::Device | Phase::Header | Phase::Room | Phase::Definition | Phase::Ready => Style::Dim,
        Phase::Question => Style::Waiting,
        Phase::Key => Style::Warning,
        Phase::Mount | Phase::Pool | Phase::Start => Style::Good,
    };
    colour.paint(style, text)
}
