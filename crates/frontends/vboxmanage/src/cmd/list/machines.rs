//! `list vms` and `list runningvms`.

use super::Style;
use crate::cmd::showvminfo;
use crate::cx::Cx;
use crate::error::Result;
use api::client::InternalVirtualBox;
use api::types::MachineState;
use api::{Remote, ResultCode};

/// Name (empty: the machine is inaccessible) and UUID.
type Entry = (String, String);

pub fn list(cx: &mut Cx<'_>, style: Style, running_only: bool) -> Result {
    let vbox = cx.vbox()?;
    let (ids, names, states) = vbox.cast::<InternalVirtualBox>().machine_list()?;
    let mut all: Vec<Entry> = (names.into_iter().zip(ids).zip(states))
        .filter(|((name, _), state)| !running_only || !name.is_empty() && runs(*state))
        .map(|(entry, _)| entry)
        .collect();
    if style.sorted {
        all.sort();
    }
    let last = all.len();
    for (index, (name, id)) in all.into_iter().enumerate() {
        if style.long {
            // A machine that was removed meanwhile is not worth an error.
            let machine = gone_is_none(vbox.find_machine(&id).map_err(Into::into))?;
            if let Some(machine) = machine {
                gone_is_none(showvminfo::print_human(cx, &machine))?;
                if index + 1 < last {
                    writeln!(cx.out)?;
                }
            }
        } else {
            let name = if name.is_empty() {
                "<inaccessible>"
            } else {
                &name
            };
            writeln!(cx.out, "\"{name}\" {{{id}}}")?;
        }
    }
    Ok(())
}

fn runs(state: MachineState) -> bool {
    use MachineState as S;
    matches!(
        state,
        S::Running | S::Teleporting | S::LiveSnapshotting | S::Paused | S::TeleportingPausedVM
    )
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
