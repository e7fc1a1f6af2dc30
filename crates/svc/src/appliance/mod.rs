//! `IAppliance`: machines in OVF packages. `interpret` says what a package's machines would become,
//! `import` makes them, `export` writes machines to a package; `disk` converts images between the
//! two worlds.

mod description;
mod disk;
mod explorer;
mod export;
mod import;
mod interpret;
mod undo;

use crate::conv::{file_error, invalid};
use crate::state::{Svc, lock};
use api::progress::Progress;
use api::types::*;
use api::{Call, Error, ObjRef, server};
use description::Description;
use export::Export;
use ovf::Package;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// One client's appliance, until it lets go of it.
pub struct ApplianceObject {
    svc: Arc<Svc>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    path: PathBuf,
    package: Option<Arc<Package>>,
    /// One per machine of the package, or of those to be written.
    descriptions: Vec<Arc<Description>>,
    exports: Vec<Export>,
    machines: Vec<Uuid>,
    warnings: Vec<String>,
}

/// The error of a package.
fn package_error(path: &Path, error: &ovf::Error) -> Error {
    let code = match error {
        ovf::Error::Cancelled => {
            return Error::new(ResultCode::E_ABORT, "The operation was cancelled");
        }
        ovf::Error::Descriptor(_) => ResultCode::VBOX_E_XML_ERROR,
        _ => ResultCode::VBOX_E_FILE_ERROR,
    };
    Error::new(code, format!("Appliance '{}': {error}", path.display()))
}

impl ApplianceObject {
    pub fn new(svc: Arc<Svc>) -> Self {
        Self {
            svc,
            state: Arc::default(),
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut lock(&self.state))
    }
}

/// `IMachine::exportTo`: prepares a machine for being written to one of the caller's appliances.
pub fn add(
    cx: &Call,
    appliance: &ObjRef,
    machine: &settings::model::Machine,
    location: &str,
) -> api::Result<ObjRef> {
    let object = cx.local(appliance);
    let appliance = object
        .as_ref()
        .and_then(|o| o.as_any().downcast_ref::<ApplianceObject>())
        .ok_or_else(|| invalid("The argument is not an appliance of this client"))?;
    let (export, description) = export::describe(&appliance.svc, machine, location)?;
    let description = Arc::new(description);
    appliance.with(|s| {
        s.descriptions.push(description.clone());
        s.exports.push(export);
    });
    Ok(cx.export(description))
}

impl server::IAppliance for ApplianceObject {
    fn path(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.with(|s| s.path.to_string_lossy().into_owned()))
    }
    fn disks(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(self.with(|s| {
            let package = s.package.as_ref();
            package.map_or(Vec::new(), |p| interpret::disk_lines(p.envelope()))
        }))
    }
    fn virtual_system_descriptions(&self, cx: &Call) -> api::Result<Vec<ObjRef>> {
        let all = self.with(|s| s.descriptions.clone());
        Ok(all.into_iter().map(|d| cx.export(d)).collect())
    }
    fn machines(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(self.with(|s| s.machines.iter().map(Uuid::to_string).collect()))
    }
    fn get_warnings(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(self.with(|s| s.warnings.clone()))
    }
    fn get_password_ids(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn read(&self, cx: &Call, file: String) -> api::Result<ObjRef> {
        let path = PathBuf::from(&file);
        if !path.is_absolute() {
            return Err(invalid(format!(
                "The appliance '{file}' is not an absolute path"
            )));
        }
        let state = self.state.clone();
        let what = format!("Reading appliance '{file}'");
        let progress = Progress::spawn(what, false, move |_| {
            let package = Package::open(&path).map_err(|e| package_error(&path, &e))?;
            *lock(&state) = State {
                path,
                package: Some(Arc::new(package)),
                ..State::default()
            };
            Ok(())
        });
        self.svc.track(&progress);
        Ok(cx.export(progress))
    }

    fn interpret(&self, _cx: &Call) -> api::Result<()> {
        let package = self.with(|s| s.package.clone()).ok_or_else(|| {
            Error::new(
                ResultCode::NS_ERROR_FAILURE,
                "Cannot interpret appliance without reading it first (call read() before interpret())",
            )
        })?;
        let (descriptions, warnings) = interpret::interpret(&self.svc, &package)?;
        self.with(|s| {
            s.descriptions = descriptions.into_iter().map(Arc::new).collect();
            s.warnings = warnings;
        });
        Ok(())
    }

    fn import_machines(&self, cx: &Call, options: Vec<ImportOptions>) -> api::Result<ObjRef> {
        let (package, systems) = self.with(|s| {
            let systems: Vec<_> = s.descriptions.iter().map(|d| d.entries()).collect();
            (s.package.clone(), systems)
        });
        let package = package.filter(|_| !systems.is_empty()).ok_or_else(|| {
            Error::new(
                ResultCode::NS_ERROR_FAILURE,
                "Cannot import machines without interpreting an appliance first (call interpret() before importMachines())",
            )
        })?;
        let (svc, state) = (self.svc.clone(), self.state.clone());
        let what = format!("Importing appliance '{}'", package.path().display());
        let progress = Progress::spawn(what, true, move |progress| {
            let made = import::import(&svc, &package, &systems, &options, progress)?;
            lock(&state).machines = made;
            Ok(())
        });
        self.svc.track(&progress);
        Ok(cx.export(progress))
    }

    fn write(
        &self,
        cx: &Call,
        format: String,
        options: Vec<ExportOptions>,
        path: String,
    ) -> api::Result<ObjRef> {
        let version = match format.to_ascii_lowercase().as_str() {
            "ovf-0.9" => ovf::Version::V0_9,
            "ovf-1.0" | "" => ovf::Version::V1_0,
            "ovf-2.0" => ovf::Version::V2_0,
            "opc-1.0" => {
                return Err(Error::not_implemented(
                    "IAppliance",
                    "write of format opc-1.0",
                ));
            }
            other => return Err(invalid(format!("Invalid format \"{other}\" specified"))),
        };
        let target = export::Target::new(version, &options, &path)?;
        let machines: Vec<_> = self.with(|s| {
            let entries = s.descriptions.iter().map(|d| d.entries());
            s.exports.iter().cloned().zip(entries).collect()
        });
        if machines.is_empty() {
            return Err(invalid("There are no machines to export"));
        }
        let svc = self.svc.clone();
        let progress = Progress::spawn(format!("Export appliance '{path}'"), true, move |p| {
            export::write(&svc, &machines, &target, p)
        });
        self.svc.track(&progress);
        Ok(cx.export(progress))
    }

    fn create_vfs_explorer(&self, cx: &Call, uri: String) -> api::Result<ObjRef> {
        Ok(cx.export(Arc::new(explorer::ExplorerObject::new(&uri)?)))
    }

    fn create_virtual_system_descriptions(&self, _cx: &Call, requested: u32) -> api::Result<u32> {
        const MOST: u32 = 64;
        if requested > MOST {
            return Err(invalid(format!(
                "At most {MOST} descriptions can be made at once"
            )));
        }
        self.with(|s| {
            let new = (0..requested).map(|_| Arc::new(Description::default()));
            s.descriptions.extend(new);
        });
        Ok(requested)
    }
}
api::object!(ApplianceObject: IAppliance);

/// Percentages of a work of several parts as one.
struct Parts<'a> {
    progress: &'a Progress,
    done: u64,
    count: u64,
}

impl<'a> Parts<'a> {
    fn new(progress: &'a Progress, count: usize) -> Self {
        Self {
            progress,
            done: 0,
            count: (count as u64).max(1),
        }
    }

    fn next(&mut self) {
        self.done += 1;
    }

    /// How far the present part is, 0 to 100; false when the client cancelled.
    fn at(&self, percent: u64) -> bool {
        let total = (self.done * 100 + percent.min(100)) / self.count;
        self.progress
            .set_percent(u32::try_from(total).unwrap_or(100));
        !self.progress.is_canceled()
    }

    fn of(&self, done: u64, total: u64) -> bool {
        self.at(u64::try_from(u128::from(done) * 100 / u128::from(total.max(1))).unwrap_or(100))
    }
}

fn canceled() -> Error {
    Error::new(ResultCode::E_ABORT, "The operation was cancelled")
}

fn io_error(action: &str, path: &Path, error: &std::io::Error) -> Error {
    file_error(format!("Could not {action} '{}': {error}", path.display()))
}
