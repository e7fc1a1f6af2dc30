//! `snapshot`.

use super::{Command, Form, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::Cx;
use crate::error::{During, Failure, Result};
use crate::names::is_online;
use crate::out::escaped;
use crate::progress;
use api::client::{Machine, Snapshot};
use api::types::LockType;
use std::io::Write;

pub const COMMAND: Command = Command {
    name: "snapshot",
    aliases: &[],
    usage,
    forms,
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage snapshot <uuid | vmname> take <snapshot-name> [--description=description] [--live]
      [--uniquename Number,Timestamp,Space,Force]

  VBoxManage snapshot <uuid | vmname> delete <snapshot-name>

  VBoxManage snapshot <uuid | vmname> restore <snapshot-name>

  VBoxManage snapshot <uuid | vmname> restorecurrent

  VBoxManage snapshot <uuid | vmname> edit <snapshot-name | --current>
      [--description=description] [--name=new-name]

  VBoxManage snapshot <uuid | vmname> list [--details | --machinereadable]

  VBoxManage snapshot <uuid | vmname> showvminfo <snapshot-name>\n"
        .to_owned()
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let name = args.required("machine name or UUID")?;
    let action = args.required("subcommand")?;
    match action.as_str() {
        "take" => take(cx, &name, args),
        "delete" => {
            let snapshot = args.required("snapshot name")?;
            args.end()?;
            delete(cx, &name, &snapshot)
        }
        "restore" => {
            let snapshot = args.required("snapshot name")?;
            args.end()?;
            restore(cx, &name, Some(&snapshot))
        }
        "restorecurrent" => {
            args.end()?;
            restore(cx, &name, None)
        }
        "edit" => edit(cx, &name, args),
        "list" => list(cx, &name, args),
        "showvminfo" => {
            let snapshot = args.required("snapshot name")?;
            args.end()?;
            let machine = cx.machine(&name)?;
            let machine = find(&machine, &snapshot)?.machine()?;
            super::showvminfo::print_human(cx, &machine)
        }
        _ => Err(Failure::syntax(format!("Invalid parameter '{action}'"))),
    }
}

fn forms() -> Vec<Form> {
    vec![
        form("take", TAKE).without(&["--uniquename"]),
        form("delete", &[]),
        form("restore", &[]),
        form("restorecurrent", &[]),
        form("edit", EDIT),
        form("list", LIST),
        form("showvminfo", &[]),
    ]
}

fn find(machine: &Machine, name: &str) -> Result<Snapshot> {
    machine
        .find_snapshot(name)
        .during("FindSnapshot(Bstr(pszSnapshot).raw(), pSnapshot.asOutParam())")
}

const TAKE: &[Opt] = &[
    value(&["--description", "--desc", "-d"]),
    flag(&["--live", "-l"]),
    flag(&["--pause", "-p"]),
    value(&["--uniquename", "-u"]),
];

fn take(cx: &mut Cx<'_>, machine: &str, args: &mut Args) -> Result {
    let (mut name, mut description, mut pause) = (None, String::new(), true);
    while let Some(arg) = args.next(TAKE)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--description" => description = given.value,
                "--live" => pause = false,
                "--pause" => pause = true,
                _ => {
                    return Err(Failure::message(
                        "The option '--uniquename' of snapshot take is not available in this version of Oxbox yet",
                    ));
                }
            },
            Arg::Word(word) if name.is_none() => name = Some(word),
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    let name = name.ok_or_else(|| Failure::syntax("Missing snapshot name"))?;
    let locked = lock(cx, machine)?;
    let (taking, id) = locked
        .machine
        .take_snapshot(&name, &description, pause)
        .during("TakeSnapshot(name.raw(), desc.raw(), fPause, snapId.asOutParam(), progress.asOutParam())")?;
    progress::show(cx, &taking, "Failed to take snapshot")?;
    writeln!(cx.out, "Snapshot taken. UUID: {id}")?;
    locked.unlock()
}

/// A running machine's lock is joined, another's is taken.
fn lock(cx: &mut Cx<'_>, name: &str) -> Result<crate::cx::Locked> {
    let machine = cx.machine(name)?;
    let kind = if is_online(machine.state()?) {
        LockType::Shared
    } else {
        LockType::Write
    };
    cx.lock_machine(&machine, kind)
}

fn delete(cx: &mut Cx<'_>, machine: &str, name: &str) -> Result {
    let locked = lock(cx, machine)?;
    let snapshot = find(&locked.machine, name)?;
    let (id, title) = (snapshot.id()?, snapshot.name()?);
    writeln!(cx.out, "Deleting snapshot '{title}' ({id})")?;
    cx.out.flush()?;
    let deleting = locked
        .machine
        .delete_snapshot(&id)
        .during("DeleteSnapshot(bstrSnapGuid.raw(), pProgress.asOutParam())")?;
    progress::show(cx, &deleting, "Snapshot operation failed")?;
    locked.unlock()
}

fn restore(cx: &mut Cx<'_>, machine: &str, name: Option<&str>) -> Result {
    let locked = lock(cx, machine)?;
    let snapshot = match name {
        Some(name) => find(&locked.machine, name)?,
        None => locked
            .machine
            .current_snapshot()?
            .ok_or_else(|| Failure::message("This machine does not have any snapshots"))?,
    };
    let (id, title) = (snapshot.id()?, snapshot.name()?);
    writeln!(cx.out, "Restoring snapshot '{title}' ({id})")?;
    cx.out.flush()?;
    let restoring = locked
        .machine
        .restore_snapshot(&snapshot)
        .during("RestoreSnapshot(pSnapshot, pProgress.asOutParam())")?;
    progress::show(cx, &restoring, "Snapshot operation failed")?;
    locked.unlock()
}

const EDIT: &[Opt] = &[
    flag(&["--current", "-c"]),
    value(&["--description", "--desc", "-d"]),
    value(&["--name", "-n"]),
];

fn edit(cx: &mut Cx<'_>, machine: &str, args: &mut Args) -> Result {
    let (mut which, mut current, mut name, mut description) = (None, false, None, None);
    while let Some(arg) = args.next(EDIT)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--current" => current = true,
                "--description" => description = Some(given.value),
                _ => name = Some(given.value),
            },
            Arg::Word(word) if which.is_none() => which = Some(word),
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    if which.is_none() && !current {
        return Err(Failure::syntax("Missing snapshot name"));
    }
    let locked = lock(cx, machine)?;
    let snapshot = match which {
        Some(which) => find(&locked.machine, &which)?,
        None => locked
            .machine
            .current_snapshot()?
            .ok_or_else(|| Failure::message("This machine does not have any snapshots"))?,
    };
    if let Some(name) = name {
        snapshot
            .set_name(&name)
            .during("COMSETTER(Name)(Bstr(pszName).raw())")?;
    }
    if let Some(description) = description {
        snapshot
            .set_description(&description)
            .during("COMSETTER(Description)(Bstr(pszDescription).raw())")?;
    }
    locked.unlock()
}

const LIST: &[Opt] = &[
    flag(&["--details", "-D"]),
    flag(&["--machinereadable", "-M"]),
];

fn list(cx: &mut Cx<'_>, machine: &str, args: &mut Args) -> Result {
    let mut style = Style::Human;
    while let Some(arg) = args.next(LIST)? {
        match arg {
            Arg::Opt(_, given) if given.name == "--machinereadable" => style = Style::Machine,
            Arg::Opt(..) => style = Style::Details,
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    let machine = cx.machine(machine)?;
    if machine.snapshot_count()? == 0 {
        // On stdout, and yet a failure: programs look for both.
        writeln!(cx.out, "This machine does not have any snapshots")?;
        return Err(Failure::Silent(1));
    }
    print(cx.out, &machine, style)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Human,
    Details,
    Machine,
}

/// A snapshot with all below it.
#[derive(Debug, Default)]
struct Node {
    id: String,
    name: String,
    description: String,
    time: i64,
    current: bool,
    children: Vec<Node>,
}

/// The tree of a machine's snapshots; nothing when it has none.
pub fn print(out: &mut dyn Write, machine: &Machine, style: Style) -> Result {
    if machine.snapshot_count()? == 0 {
        return Ok(());
    }
    let current = match machine.current_snapshot()? {
        Some(snapshot) => snapshot.id()?,
        None => String::new(),
    };
    // An empty name stands for the first one.
    let root = node(&machine.find_snapshot("")?, &current)?;
    print_tree(out, &root, style)
}

fn node(snapshot: &Snapshot, current: &str) -> Result<Node> {
    let id = snapshot.id()?;
    Ok(Node {
        current: id == current,
        id,
        name: snapshot.name()?,
        description: snapshot.description()?,
        time: snapshot.time_stamp()?,
        children: snapshot
            .children()?
            .iter()
            .map(|c| node(c, current))
            .collect::<Result<_>>()?,
    })
}

fn print_tree(out: &mut dyn Write, root: &Node, style: Style) -> Result {
    if style != Style::Machine {
        return print_human(out, root, 1, style);
    }
    let mut current = None;
    print_machine(out, root, "", &mut current)?;
    if let Some((name, id, path)) = current {
        writeln!(out, "CurrentSnapshotName=\"{}\"", escaped(&name))?;
        writeln!(out, "CurrentSnapshotUUID=\"{id}\"")?;
        writeln!(out, "CurrentSnapshotNode=\"SnapshotName{path}\"")?;
    }
    Ok(())
}

fn print_human(out: &mut dyn Write, node: &Node, level: usize, style: Style) -> Result {
    let indent = "   ".repeat(level);
    let star = if node.current { " *" } else { "" };
    writeln!(out, "{indent}Name: {} (UUID: {}){star}", node.name, node.id)?;
    if style == Style::Details {
        writeln!(out, "{indent}Time: {}", crate::time::iso(node.time))?;
    }
    if !node.description.is_empty() {
        if node.description.contains('\n') {
            writeln!(out, "{indent}Description:\n{}", node.description)?;
        } else {
            writeln!(out, "{indent}Description: {}", node.description)?;
        }
    }
    for child in &node.children {
        print_human(out, child, level + 1, style)?;
    }
    Ok(())
}

type Current = Option<(String, String, String)>;

fn print_machine(out: &mut dyn Write, node: &Node, path: &str, current: &mut Current) -> Result {
    writeln!(out, "SnapshotName{path}=\"{}\"", escaped(&node.name))?;
    writeln!(out, "SnapshotUUID{path}=\"{}\"", node.id)?;
    if !node.description.is_empty() {
        writeln!(
            out,
            "SnapshotDescription{path}=\"{}\"",
            escaped(&node.description)
        )?;
    }
    if node.current {
        *current = Some((node.name.clone(), node.id.clone(), path.to_owned()));
    }
    for (index, child) in node.children.iter().enumerate() {
        print_machine(out, child, &format!("{path}-{}", index + 1), current)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Node {
        let leaf = |name: &str, current| Node {
            id: format!("u-{name}"),
            name: name.into(),
            current,
            ..Node::default()
        };
        Node {
            description: "the \"first\"".into(),
            children: vec![
                leaf("one", false),
                Node {
                    children: vec![leaf("deep", true)],
                    ..leaf("two", false)
                },
            ],
            ..leaf("base", false)
        }
    }

    fn printed(style: Style) -> String {
        let mut out = Vec::new();
        print_tree(&mut out, &tree(), style).expect("memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn for_machines() {
        assert_eq!(
            printed(Style::Machine),
            "SnapshotName=\"base\"\n\
             SnapshotUUID=\"u-base\"\n\
             SnapshotDescription=\"the \\\"first\\\"\"\n\
             SnapshotName-1=\"one\"\n\
             SnapshotUUID-1=\"u-one\"\n\
             SnapshotName-2=\"two\"\n\
             SnapshotUUID-2=\"u-two\"\n\
             SnapshotName-2-1=\"deep\"\n\
             SnapshotUUID-2-1=\"u-deep\"\n\
             CurrentSnapshotName=\"deep\"\n\
             CurrentSnapshotUUID=\"u-deep\"\n\
             CurrentSnapshotNode=\"SnapshotName-2-1\"\n"
        );
    }

    #[test]
    fn for_people() {
        assert_eq!(
            printed(Style::Human),
            "   Name: base (UUID: u-base)\n   Description: the \"first\"\n      Name: one (UUID: u-one)\n      Name: two (UUID: u-two)\n         Name: deep (UUID: u-deep) *\n"
        );
    }
}
