//! `virt-unlock timeline`: the last way up of this boot as bars over time.

use super::{Failure, Verdict, answer};
use crate::cancel::Cancel;
use crate::host::journal;
use crate::report::{self, Colour};
use crate::timeline::{self, Timeline};

/// Where standard output is no terminal.
const WIDTH: usize = 120;

pub(super) fn timeline(svg: bool) -> Result<Verdict, Failure> {
    let lines = journal::entries_of_units(&Cancel::new()?).map_err(Failure::Unable)?;
    let entries = timeline::entries(&lines);
    let Some(timeline) = Timeline::last(&entries, report::now()) else {
        return Err(Failure::Unable(
            "the journal of this boot tells of no way up by the units; it can be read by root, and by the group systemd-journal"
                .to_owned(),
        ));
    };
    if svg {
        answer(&timeline::svg(&timeline))?;
    } else {
        let width = terminal_size::terminal_size_of(std::io::stdout()).map_or(WIDTH, |(width, _)| usize::from(width.0));
        answer(&timeline::text(&timeline, width, Colour::on_stdout()))?;
    }
    Ok(Verdict::AsAsked)
}
