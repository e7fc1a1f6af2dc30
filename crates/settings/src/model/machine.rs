//! A machine and its snapshots.

use std::collections::BTreeMap;

use iprt::time::Timestamp;
use uuid::Uuid;

use super::enums::*;
use super::hardware::Hardware;
use super::storage::MediaRegistry;

/// What a `.vbox` file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    pub uuid: Uuid,
    pub name: String,
    /// Guest OS type ID, `Debian_64`.
    pub os_type: String,
    /// The file and folder follow the machine's name.
    pub name_sync: bool,
    pub directory_includes_uuid: bool,
    /// Base64 of a PNG; empty for the OS type's own (1.14).
    pub icon: String,
    /// Saved state, as stored; none unless the machine is saved.
    pub state_file: Option<String>,
    /// The snapshot that the present state is based on.
    pub current_snapshot: Option<Uuid>,
    /// As stored; see [`Machine::DEFAULT_SNAPSHOT_FOLDER`].
    pub snapshot_folder: String,
    pub last_state_change: Timestamp,
    pub aborted: bool,
    /// Whether the present state differs from the current snapshot.
    pub current_state_modified: bool,
    pub process_priority: ProcessPriority,
    pub encryption: Encryption,
    /// Name of the engine that is wanted (1.20); empty for the product's choice.
    pub execution_engine: String,
    pub media: MediaRegistry,
    /// Free key-value pairs of programs and users.
    pub extra_data: BTreeMap<String, String>,
    pub description: String,
    pub teleporter: Teleporter,
    /// Root of the snapshot tree.
    pub snapshot: Option<Box<Snapshot>>,
    pub hardware: Hardware,
    /// Groups shown by front ends, each starting with `/`. `["/"]` where the file has none; none
    /// at all means the same.
    pub groups: Vec<String>,
    pub tracing: Tracing,
    pub guest_debug: GuestDebug,
    pub autostart: Autostart,
}

impl Machine {
    /// Where snapshots go unless the machine says otherwise, relative to its folder.
    pub const DEFAULT_SNAPSHOT_FOLDER: &'static str = "Snapshots";

    /// A new machine with default hardware.
    pub fn new(uuid: Uuid, name: impl Into<String>, os_type: impl Into<String>) -> Self {
        Self {
            uuid,
            name: name.into(),
            os_type: os_type.into(),
            snapshot_folder: Self::DEFAULT_SNAPSHOT_FOLDER.to_owned(),
            ..Self::default()
        }
    }

    /// The snapshot of that UUID.
    pub fn find_snapshot(&self, uuid: Uuid) -> Option<&Snapshot> {
        let mut open: Vec<&Snapshot> = self.snapshot.as_deref().into_iter().collect();
        while let Some(snapshot) = open.pop() {
            if snapshot.uuid == uuid {
                return Some(snapshot);
            }
            open.extend(&snapshot.children);
        }
        None
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            uuid: Uuid::nil(),
            name: String::new(),
            os_type: String::new(),
            name_sync: true,
            directory_includes_uuid: false,
            icon: String::new(),
            state_file: None,
            current_snapshot: None,
            snapshot_folder: String::new(),
            last_state_change: Timestamp::default(),
            aborted: false,
            current_state_modified: true,
            process_priority: ProcessPriority::Default,
            encryption: Encryption::default(),
            execution_engine: String::new(),
            media: MediaRegistry::default(),
            extra_data: BTreeMap::new(),
            description: String::new(),
            teleporter: Teleporter::default(),
            snapshot: None,
            hardware: Hardware::default(),
            groups: vec!["/".to_owned()],
            tracing: Tracing::default(),
            guest_debug: GuestDebug::default(),
            autostart: Autostart::default(),
        }
    }
}

/// A snapshot and those taken on top of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    pub uuid: Uuid,
    pub name: String,
    pub description: String,
    pub time: Timestamp,
    /// Saved state, as stored, if it was taken from a running machine.
    pub state_file: Option<String>,
    pub hardware: Box<Hardware>,
    pub children: Vec<Snapshot>,
}

/// Keys of an encrypted machine's files other than its disks (1.19).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encryption {
    pub state_key_id: String,
    pub state_key_store: String,
    pub log_key_id: String,
    pub log_key_store: String,
}

/// Waiting for a machine to come in from another host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Teleporter {
    pub enabled: bool,
    pub port: u16,
    pub address: String,
    pub password: String,
}

/// Tracing of the VM process (1.13).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tracing {
    pub enabled: bool,
    pub config: String,
    pub allow_access_to_vm: bool,
}

/// Debugger connection (1.19).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestDebug {
    pub provider: GuestDebugProvider,
    pub io: GuestDebugIo,
    pub address: String,
    pub port: u32,
}

/// Start and stop with the host (1.13).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Autostart {
    pub enabled: bool,
    /// Seconds.
    pub delay: u32,
    pub autostop: AutostopType,
}
