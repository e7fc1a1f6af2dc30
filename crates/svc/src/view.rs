//! How API objects reach a machine's settings: by UUID, read-only or through the session that has
//! it locked. Objects hold no settings themselves, so they are made anew for each call.

use crate::conv::not_found;
use crate::state::{Entry, Svc, is_running};
use api::types::MachineState;
use api::{Error, ObjRef, ResultCode};
use settings::model::Machine;
use std::sync::Arc;
use uuid::Uuid;

/// One machine as one client may see it.
#[derive(Clone)]
pub struct View {
    pub svc: Arc<Svc>,
    pub id: Uuid,
    /// The session machine: reads and writes the settings that `saveSettings` saves.
    pub mutable: bool,
    /// The machine as it was at this snapshot.
    pub snapshot: Option<Uuid>,
}

/// In which states a setting may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// While no VM process has the machine.
    Off,
    /// Also while the machine runs.
    Any,
}

impl View {
    /// Path of an object of this machine; `""` is the machine itself.
    pub fn path(&self, below: &str) -> ObjRef {
        if let Some(snapshot) = self.snapshot {
            let (id, snapshot) = (self.id.simple(), snapshot.simple());
            let slash = if below.is_empty() { "" } else { "/" };
            return ObjRef::new(format!("/SnapshotMachine/{id}/{snapshot}{slash}{below}"));
        }
        let root = if self.mutable {
            "SessionMachine"
        } else {
            "Machine"
        };
        let slash = if below.is_empty() { "" } else { "/" };
        ObjRef::new(format!("/{root}/{}{slash}{below}", self.id.simple()))
    }

    /// The read-only view.
    pub fn plain(&self) -> Self {
        Self {
            mutable: false,
            ..self.clone()
        }
    }

    /// Looks at everything the service knows of the machine.
    pub fn entry<R>(&self, f: impl FnOnce(&mut Entry) -> api::Result<R>) -> api::Result<R> {
        self.svc.with(|state| f(state.machine_mut(self.id)?))
    }

    /// Reads settings.
    pub fn get<R>(&self, f: impl FnOnce(&Machine) -> R) -> api::Result<R> {
        self.entry(|e| {
            if let Some(id) = self.snapshot {
                let mut then = e.settings()?.clone();
                let snapshot = then.find_snapshot(id).ok_or_else(|| gone("The snapshot"))?;
                then.hardware = (*snapshot.hardware).clone();
                return Ok(f(&then));
            }
            let settings = if self.mutable {
                e.pending.as_ref()
            } else {
                None
            };
            match settings {
                Some(settings) => Ok(f(settings)),
                None => e.settings().map(f),
            }
        })
    }

    /// Changes settings; see [`When`].
    pub fn change<R>(
        &self,
        when: When,
        f: impl FnOnce(&mut Machine) -> api::Result<R>,
    ) -> api::Result<R> {
        self.entry(|e| {
            e.settings()?;
            let registered_and_shared = e.registered && !self.mutable;
            let running = is_running(e.state) || e.vm.is_some();
            if self.snapshot.is_some() || registered_and_shared || (running && when == When::Off) {
                return Err(immutable(e.state));
            }
            // Applied to a copy, so that a refused value leaves nothing half changed.
            let mut copy = match (&e.pending, self.mutable) {
                (Some(pending), true) => pending.clone(),
                _ => e.settings()?.clone(),
            };
            let result = f(&mut copy)?;
            if self.mutable {
                e.pending = Some(copy);
            } else {
                *e.settings_mut()? = copy;
                e.unsaved = true;
            }
            Ok(result)
        })
    }

    /// Changes settings of a machine that is off.
    pub fn set(&self, f: impl FnOnce(&mut Machine) -> api::Result<()>) -> api::Result<()> {
        self.change(When::Off, f)
    }
}

/// The answer to a change that the machine's state forbids.
pub fn immutable(state: MachineState) -> Error {
    Error::new(
        ResultCode::VBOX_E_INVALID_VM_STATE,
        format!("The machine is not mutable (state is {})", state.name()),
    )
}

/// "There is no such part" for objects whose part went away.
pub fn gone(what: &str) -> Error {
    not_found(format!("{what} does not exist any more"))
}

/// Implements getters and setters of a generated trait that map to one field each. The object has
/// `get(|part| ..)` and, for setters, `set(|part| ..)`.
#[macro_export]
macro_rules! fields {
    () => {};
    ($get:ident / $set:ident: $type:ty = $($field:ident).+; $($rest:tt)*) => {
        fn $set(&self, _cx: &api::Call, value: $type) -> api::Result<()> {
            self.set(|part| {
                part.$($field).+ = $crate::conv::ToModel::to_model(value)?;
                Ok(())
            })
        }
        $crate::fields! { $get: $type = $($field).+; $($rest)* }
    };
    ($get:ident: $type:ty = $($field:ident).+; $($rest:tt)*) => {
        fn $get(&self, _cx: &api::Call) -> api::Result<$type> {
            self.get(|part| $crate::conv::FromModel::from_model(&part.$($field).+))
        }
        $crate::fields! { $($rest)* }
    };
}

/// Attributes that have one fixed answer here.
#[macro_export]
macro_rules! constants {
    ($($get:ident: $type:ty = $value:expr;)+) => {$(
        fn $get(&self, _cx: &api::Call) -> api::Result<$type> {
            Ok($value)
        }
    )+};
}
