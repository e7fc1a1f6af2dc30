//! `Machine` and the snapshot tree.

use super::hardware::{hardware, recording_beside, storage_beside};
use super::storage::media_registry;
use super::{Done, Xml};
use crate::model::*;
use crate::version::Version;

pub(super) fn machine(x: &mut Xml<'_>, m: &mut Machine) -> Done {
    x.required("uuid", &mut m.uuid)?;
    x.required("name", &mut m.name)?;
    x.rare("nameSync", &mut m.name_sync, true)?;
    x.since(Version::V1_13).rare(
        "directoryIncludesUUID",
        &mut m.directory_includes_uuid,
        false,
    )?;
    x.explicit("OSType", &mut m.os_type, String::new())?;
    x.optional("stateFile", &mut m.state_file)?;
    x.optional("currentSnapshot", &mut m.current_snapshot)?;
    x.rare("snapshotFolder", &mut m.snapshot_folder, String::new())?;
    x.rare("currentStateModified", &mut m.current_state_modified, true)?;
    x.explicit(
        "lastStateChange",
        &mut m.last_state_change,
        Default::default(),
    )?;
    x.rare("aborted", &mut m.aborted, false)?;
    x.since(Version::V1_14)
        .rare("icon", &mut m.icon, String::new())?;
    let priority = &mut m.process_priority;
    x.since(Version::V1_17)
        .rare("VMProcessPriority", priority, ProcessPriority::Default)?;
    let e = &mut m.encryption;
    for (name, value) in [
        ("stateKeyId", &mut e.state_key_id),
        ("stateKeyStore", &mut e.state_key_store),
        ("logKeyId", &mut e.log_key_id),
        ("logKeyStore", &mut e.log_key_store),
    ] {
        x.since(Version::V1_19).rare(name, value, String::new())?;
    }
    x.since(Version::V1_20)
        .rare("executionEngine", &mut m.execution_engine, String::new())?;

    x.since(Version::V1_11)
        .container("MediaRegistry", |x| media_registry(x, &mut m.media))?;
    x.container("ExtraData", |x| x.map("ExtraDataItem", &mut m.extra_data))?;
    x.text("Description", &mut m.description)?;
    x.since(Version::V1_9).child("Teleporter", |x| {
        let t = &mut m.teleporter;
        x.rare("enabled", &mut t.enabled, false)?;
        x.rare("port", &mut t.port, 0)?;
        x.rare("address", &mut t.address, String::new())?;
        x.rare("password", &mut t.password, String::new())
    })?;
    let mut root: Vec<Snapshot> = m.snapshot.take().map(|s| *s).into_iter().collect();
    x.list("Snapshot", &mut root, snapshot)?;
    if root.len() > 1 {
        return Err(x.fault("", "there are several root snapshots"));
    }
    m.snapshot = root.pop().map(Box::new);
    if let Some(current) = m.current_snapshot
        && x.reading()
        && m.find_snapshot(current).is_none()
    {
        return Err(x.fault("currentSnapshot", "is not one of the machine's snapshots"));
    }
    hardware(x, &mut m.hardware)?;
    storage_beside(x, &mut m.hardware)?;
    recording_beside(x, &mut m.hardware)?;

    groups(x, &mut m.groups)?;
    x.child("Debugging", |x| {
        x.since(Version::V1_13).child("Tracing", |x| {
            let t = &mut m.tracing;
            x.rare("enabled", &mut t.enabled, false)?;
            x.rare("allowTracingToAccessVM", &mut t.allow_access_to_vm, false)?;
            x.rare("config", &mut t.config, String::new())
        })?;
        x.since(Version::V1_19).child("GuestDebug", |x| {
            let d = &mut m.guest_debug;
            x.rare("provider", &mut d.provider, GuestDebugProvider::None)?;
            x.rare("io", &mut d.io, GuestDebugIo::None)?;
            x.rare("address", &mut d.address, String::new())?;
            x.rare("port", &mut d.port, 0)
        })
    })?;
    x.since(Version::V1_13).child("Autostart", |x| {
        let a = &mut m.autostart;
        x.rare("enabled", &mut a.enabled, false)?;
        x.rare("delay", &mut a.delay, 0)?;
        x.rare("autostop", &mut a.autostop, AutostopType::Disabled)
    })
}

/// A machine in the root group only has no `Groups`.
fn groups(x: &mut Xml<'_>, groups: &mut Vec<String>) -> Done {
    let root = ["/"];
    if !x.reading() && (groups.is_empty() || *groups == root) {
        return Ok(());
    }
    x.since(Version::V1_13).child("Groups", |x| {
        x.list("Group", groups, |x, g| x.required("name", g))
    })?;
    if groups.is_empty() {
        *groups = root.map(str::to_owned).to_vec();
    }
    Ok(())
}

fn snapshot(x: &mut Xml<'_>, s: &mut Snapshot) -> Done {
    x.required("uuid", &mut s.uuid)?;
    x.required("name", &mut s.name)?;
    x.explicit("timeStamp", &mut s.time, Default::default())?;
    x.optional("stateFile", &mut s.state_file)?;
    x.text("Description", &mut s.description)?;
    hardware(x, &mut s.hardware)?;
    storage_beside(x, &mut s.hardware)?;
    recording_beside(x, &mut s.hardware)?;
    x.child("Snapshots", |x| {
        x.list("Snapshot", &mut s.children, snapshot)
    })
}
