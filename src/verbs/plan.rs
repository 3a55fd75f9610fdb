//! `virt-unlock plan`: what `up` or `down` would do, and why. Touches nothing.

use std::time::Duration;

use serde_json::{Value, json};

use super::session::Session;
use super::{App, Failure, NOTHING_CONFIGURED, Verdict, answer, answer_json, down, up};
use crate::cancel::Cancel;
use crate::cli::PlanArgs;
use crate::event::Events;
use crate::plan::{Action, Direction, Names, Plan, Step};
use crate::report::{Colour, Style, Verbosity, complain, plain};

/// A person waits for the answer.
const LIBVIRT_PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn plan(app: &App, args: &PlanArgs) -> Result<Verdict, Failure> {
    let session = Session::begin(app, false)?;
    let names = Names::new(args.names.iter().cloned());
    let facts = session.facts(Some(LIBVIRT_PATIENCE), &Events::new(|_| ()), &Cancel::new()?)?;
    let plan = if args.down {
        down::make_plan(&session, &facts, &names)?
    } else {
        up::make_plan(&session, &facts, &names)?.1
    };
    if let Some(error) = &facts.libvirt_error {
        complain(&format!(
            "virt-unlock: {}; the plan is without guests and pools",
            plain(error)
        ));
    }
    let is_whole_way_up = !args.down && names.is_all();
    let unknown = if is_whole_way_up {
        up::unknown_guests(&session.config, &facts)
    } else {
        Vec::new()
    };
    for words in &unknown {
        complain(&format!("virt-unlock: {}", plain(words)));
    }
    if args.json {
        answer_json(&to_json(&plan))?;
    } else if args.dot {
        answer(&to_dot(&plan))?;
    } else {
        answer(&to_table(&plan, app.verbosity, Colour::on_stdout()))?;
    }
    let blocked = plan.steps.iter().any(|step| step.action == Action::Blocked);
    Ok((!blocked && unknown.is_empty() && facts.libvirt_error.is_none()).into())
}

fn to_table(plan: &Plan, verbosity: Verbosity, colour: Colour) -> String {
    let is_shown = |step: &&Step| verbosity > Verbosity::Quiet || step.action == Action::Blocked;
    let width = plan
        .steps
        .iter()
        .map(|step| plain(step.layer.name()).chars().count())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for step in plan.steps.iter().filter(is_shown) {
        let style = match step.action {
            Action::Blocked => Style::Bad,
            Action::Await | Action::Nothing | Action::Leave => Style::Dim,
            _ => Style::Good,
        };
        let action = colour.paint(style, format!("{:10}", step.action.word()));
        let reason = plain(&step.reason);
        out.push_str(&format!(
            "{action} {:6} {:width$}  {reason}\n",
            step.layer.kind(),
            plain(step.layer.name())
        ));
    }
    if plan.steps.is_empty() && verbosity > Verbosity::Quiet {
        out.push_str(&format!("{NOTHING_CONFIGURED}\n"));
    }
    out
}

fn to_json(plan: &Plan) -> Value {
    let step = |step: &Step| {
        let waits: Vec<Value> = step
            .waits_for
            .iter()
            .map(|wait| {
                let layer = &plan.steps[wait.step].layer;
                json!({ "kind": layer.kind(), "name": layer.name(), "must_succeed": wait.must_succeed })
            })
            .collect();
        json!({
            "kind": step.layer.kind(),
            "name": step.layer.name(),
            "action": step.action.word(),
            "reason": step.reason,
            "waits_for": waits,
        })
    };
    let direction = match plan.direction {
        Direction::Up => "up",
        Direction::Down => "down",
    };
    json!({ "version": 1, "direction": direction, "steps": plan.steps.iter().map(step).collect::<Vec<_>>() })
}

/// For Graphviz; arrows lead from what goes first to what waits for it, dashed where it is only an order.
fn to_dot(plan: &Plan) -> String {
    let escape = |text: &str| plain(text).replace('\\', "\\\\").replace('"', "\\\"");
    let mut out = String::from("digraph plan {\n    rankdir=LR;\n    node [shape=box, fontname=\"sans-serif\"];\n");
    for (place, step) in plan.steps.iter().enumerate() {
        let (layer, action) = (escape(&step.layer.to_string()), step.action.word());
        let style = if step.action.is_work() { "solid" } else { "dotted" };
        let colour = if step.action == Action::Blocked { ", color=red" } else { "" };
        out.push_str(&format!(
            "    s{place} [label=\"{layer}\\n{action}\", tooltip=\"{}\", style={style}{colour}];\n",
            escape(&step.reason)
        ));
        for wait in &step.waits_for {
            let style = if wait.must_succeed { "solid" } else { "dashed" };
            out.push_str(&format!("    s{} -> s{place} [style={style}];\n", wait.step));
        }
    }
    out.push_str("}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Layer;
    use crate::plan::Wait;

    fn plan() -> Plan {
        let step = |layer, action, reason: &str, waits_for| Step {
            layer,
            action,
            reason: reason.to_owned(),
            waits_for,
        };
        let after = |step, must_succeed| vec![Wait { step, must_succeed }];
        Plan {
            direction: Direction::Up,
            steps: vec![
                step(Layer::Volume("vm".into()), Action::Nothing, "open already", Vec::new()),
                step(Layer::Mount("vm".into()), Action::Blocked, "not \"ours\"", after(0, true)),
                step(Layer::Domain("we\x1bb".into()), Action::Start, "is shut off", after(1, false)),
            ],
        }
    }

    #[test]
    fn the_table_is_in_columns_and_quiet_shows_what_is_blocked() {
        let table = "nothing    volume vm    open already\n\
                     blocked    mount  vm    not \"ours\"\n\
                     start      guest  we?b  is shut off\n";
        assert_eq!(to_table(&plan(), Verbosity::Normal, Colour(false)), table);
        let quiet = to_table(&plan(), Verbosity::Quiet, Colour(false));
        assert_eq!(quiet, "blocked    mount  vm    not \"ours\"\n");
        assert!(to_table(&plan(), Verbosity::Normal, Colour(true)).contains("\x1b[1;31mblocked   \x1b[0m mount"));
        let none = Plan {
            steps: Vec::new(),
            ..plan()
        };
        assert_eq!(
            to_table(&none, Verbosity::Normal, Colour(false)),
            format!("{NOTHING_CONFIGURED}\n")
        );
        assert_eq!(to_table(&none, Verbosity::Quiet, Colour(false)), "");
    }

    #[test]
    fn the_graph_is_quoted_and_shows_orders_dashed() {
        let dot = to_dot(&plan());
        assert!(
            dot.contains(r#"s1 [label="mount vm\nblocked", tooltip="not \"ours\"", style=dotted, color=red];"#),
            "{dot}"
        );
        assert!(
            dot.contains("s0 -> s1 [style=solid];") && dot.contains("s1 -> s2 [style=dashed];"),
            "{dot}"
        );
        assert!(!dot.contains('\x1b'), "{dot}");
    }
}
