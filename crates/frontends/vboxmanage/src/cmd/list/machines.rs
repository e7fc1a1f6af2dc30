//! `list vms` and `list runningvms`.

use super::Style;
use crate::cmd::showvminfo;
use crate::cx::Cx;
use crate::error::Result;
use api::ResultCode;
use api::client::Machine;
use api::types::MachineState;
use std::cmp::Ordering;

/// Name and UUID; without a name the machine is inaccessible.
type Entry = (Option<String>, String, Machine);

pub fn list(cx: &mut Cx<'_>, style: Style, running_only: bool) -> Result {
    let mut all = Vec::new();
    for machine in cx.vbox()?.machines()? {
        if let Some(entry) = gone_is_none(entry(machine, running_only))?.flatten() {
            all.push(entry);
        }
    }
    if style.sorted {
        all.sort_by(by_name);
    }
    let last = all.len();
    for (index, (name, id, machine)) in all.into_iter().enumerate() {
        if style.long {
            // A machine that was removed meanwhile is not worth an error.
            gone_is_none(showvminfo::print_human(cx, &machine))?;
            if index + 1 < last {
                writeln!(cx.out)?;
            }
        } else {
            let name = name.as_deref().unwrap_or("<inaccessible>");
            writeln!(cx.out, "\"{name}\" {{{id}}}")?;
        }
    }
    Ok(())
}

fn entry(machine: Machine, running_only: bool) -> Result<Option<Entry>> {
    let accessible = machine.accessible()?;
    if running_only {
        use MachineState as S;
        let runs = |s| {
            matches!(
                s,
                S::Running
                    | S::Teleporting
                    | S::LiveSnapshotting
                    | S::Paused
                    | S::TeleportingPausedVM
            )
        };
        if !accessible || !runs(machine.state()?) {
            return Ok(None);
        }
    }
    let name = if accessible {
        Some(machine.name()?)
    } else {
        None
    };
    Ok(Some((name, machine.id()?, machine)))
}

fn by_name(a: &Entry, b: &Entry) -> Ordering {
    a.0.cmp(&b.0).then_with(|| a.1.cmp(&b.1))
}

/// Lists must not fail because a machine is unregistered while they are made.
fn gone_is_none<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.code() == Some(ResultCode::VBOX_E_OBJECT_NOT_FOUND) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;

    #[test]
    fn only_missing_objects_are_passed_over() {
        let missing = api::Error::new(ResultCode::VBOX_E_OBJECT_NOT_FOUND, "gone");
        assert!(matches!(gone_is_none::<()>(Err(missing.into())), Ok(None)));
        let other = Failure::from(api::Error::connection("x"));
        assert!(gone_is_none::<()>(Err(other)).is_err());
    }
}
