//! `metrics`: nothing is measured yet, so that the lists are empty and nothing can be set up.

use super::{Command, form};
use crate::args::Args;
use crate::cx::Cx;
use crate::error::{Failure, Result};

pub const COMMAND: Command = Command {
    name: "metrics",
    aliases: &[],
    usage: || {
        "  VBoxManage metrics list [* | host | vmname [metric-list]]

  VBoxManage metrics query [* | host | vmname [metric-list]]\n"
            .to_owned()
    },
    forms: || ["list", "query"].map(|word| form(word, &[])).into(),
    run: Some(run),
};

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let action = args.required("subcommand")?;
    let columns: &[(&str, usize)] = match action.as_str() {
        "list" => &[("Object", 15), ("Metric", 40), ("Description", 44)],
        "query" => &[("Object", 15), ("Metric", 40), ("Values", 44)],
        "setup" | "enable" | "disable" | "collect" => {
            return Err(Failure::message(format!(
                "The action '{action}' of metrics is not available in this version of Oxbox yet"
            )));
        }
        _ => return Err(Failure::syntax(format!("Invalid subcommand '{action}'"))),
    };
    // A machine that is asked for has to be there.
    if let Some(object) = args.take()
        && object != "*"
        && object != "host"
    {
        cx.machine(&object)?;
    }
    let mut lines = (String::new(), String::new());
    for (title, width) in columns {
        lines.0.push_str(&format!("{title:<width$} "));
        lines.1.push_str(&format!("{} ", "-".repeat(*width)));
    }
    writeln!(cx.out, "{}\n{}", lines.0.trim_end(), lines.1.trim_end())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_none() {
        let said = |line: &[&str]| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let line = line.iter().map(|s| (*s).to_owned());
            let result = run(&mut Cx::new(&mut out, &mut err), &mut Args::new(line));
            (result, String::from_utf8(out).expect("UTF-8"))
        };
        let (result, out) = said(&["list", "host"]);
        result.expect("a list");
        assert!(out.starts_with("Object          Metric "), "{out}");
        assert_eq!(out.lines().count(), 2);
        assert!(matches!(said(&["collect"]).0, Err(Failure::Message(_))));
        assert!(matches!(said(&["odd"]).0, Err(Failure::Syntax(_))));
    }
}
