//! `IVirtualBox` and `IWebsessionManager`: the root object.

use crate::conv::{file_error, invalid, not_found};
use crate::machine::{check_name, checked_groups, name_is_free, register_path};
use crate::medium;
use crate::netservice::{DhcpServer, HostOnlyNetwork, NatNetwork};
use crate::session::{Session, SessionObject};
use crate::state::{Entry, Svc};
use crate::store::MachineFile;
use crate::view::View;
use crate::{constants, ostypes};
use api::types::*;
use api::{Call, Error, ObjRef, Val, Wire, server};
use settings::model::Machine;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// What tools compare; the suffix says whose build it is.
pub const VERSION: &str = "7.0.20_Oxbox";
/// The number after `r` in `VBoxManage --version`.
pub const REVISION: u32 = 1;
/// Of the interfaces.
pub const API_VERSION: &str = "7_0";

pub struct VirtualBoxObject(pub Arc<Svc>);

/// Where a machine's read-only object is.
pub fn machine_path(id: Uuid) -> ObjRef {
    ObjRef::new(format!("/Machine/{}", id.simple()))
}

fn machine_id(reference: &ObjRef) -> Option<Uuid> {
    let path = reference.path();
    let id = path
        .strip_prefix("/Machine/")
        .or_else(|| path.strip_prefix("/SessionMachine/"))?;
    crate::space::uuid(id)
}

impl VirtualBoxObject {
    /// The settings file of a machine of that name, by default below the machine folder.
    pub fn compose(&self, name: &str, group: &str, base: &str) -> api::Result<PathBuf> {
        check_name(name)?;
        let group = checked_groups(vec![group.to_owned()])?.remove(0);
        let base = match base {
            // A relative one is below the configuration folder.
            "" => {
                let folder = |s: &mut crate::state::State| {
                    crate::system::machine_folder(&s.global.settings().system)
                };
                let folder = self.0.home.join(self.0.with(folder)?);
                folder.to_string_lossy().into_owned()
            }
            given => given.to_owned(),
        };
        if !Path::new(&base).is_absolute() {
            return Err(invalid(format!(
                "The base folder '{base}' is not an absolute path"
            )));
        }
        let mut path = PathBuf::from(base);
        path.extend(group.split('/').filter(|g| !g.is_empty()));
        path.push(name);
        path.push(format!("{name}.vbox"));
        Ok(path)
    }

    fn media(&self, kind: DeviceType) -> Vec<ObjRef> {
        self.0.with(|s| {
            let all = s.media.of_kind(kind);
            all.filter(|m| m.parent.is_none())
                .map(|m| medium::path(m.id))
                .collect()
        })
    }

    fn find(&self, name_or_id: &str) -> api::Result<Uuid> {
        self.0.with(|s| s.find(name_or_id).map(|e| e.id))
    }
}

/// `flags` of createMachine: `forceOverwrite=1,UUID=...,directoryIncludesUUID=1`.
fn flag<'a>(flags: &'a str, name: &str) -> Option<&'a str> {
    flags
        .split(',')
        .filter_map(|f| f.split_once('='))
        .find(|(n, _)| n.trim() == name)
        .map(|(_, v)| v.trim())
}

impl server::IVirtualBox for VirtualBoxObject {
    constants! {
        version: String = VERSION.into();
        version_normalized: String = "7.0.20".into();
        revision: u32 = REVISION;
        package_type: String = "LINUX_64BITS_GENERIC".into();
        api_version: String = API_VERSION.into();
        api_revision: i64 = 0x0007_0000_0014_0000;
        host: ObjRef = ObjRef::new("/VirtualBox/Host");
        system_properties: ObjRef = ObjRef::new("/VirtualBox/SystemProperties");
        event_source: ObjRef = ObjRef::new("/VirtualBox/EventSource");
        shared_folders: Vec<ObjRef> = Vec::new();
        cloud_networks: Vec<ObjRef> = Vec::new();
        generic_network_drivers: Vec<String> = Vec::new();
    }

    fn home_folder(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.0.home.to_string_lossy().into_owned())
    }
    fn settings_file_path(&self, _cx: &Call) -> api::Result<String> {
        Ok(self
            .0
            .home
            .join("VirtualBox.xml")
            .to_string_lossy()
            .into_owned())
    }
    fn machines(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(self.0.with(|s| {
            s.machines
                .iter()
                .filter(|m| m.registered)
                .map(|m| machine_path(m.id))
                .collect()
        }))
    }
    fn machine_groups(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(self.0.with(|s| {
            let settings = s
                .machines
                .iter()
                .filter(|m| m.registered)
                .filter_map(|m| m.settings().ok());
            let mut all: Vec<String> = settings.flat_map(|m| m.groups.clone()).collect();
            all.push("/".to_owned());
            all.sort();
            all.dedup();
            all
        }))
    }
    fn get_machines_by_groups(&self, _cx: &Call, groups: Vec<String>) -> api::Result<Vec<ObjRef>> {
        let groups = checked_groups(groups)?;
        Ok(self.0.with(|s| {
            let is_in = |m: &&Entry| {
                m.registered
                    && m.settings().is_ok_and(|m| {
                        let root = m.groups.is_empty() && groups.iter().any(|g| g == "/");
                        root || m.groups.iter().any(|g| groups.contains(g))
                    })
            };
            s.machines
                .iter()
                .filter(is_in)
                .map(|m| machine_path(m.id))
                .collect()
        }))
    }
    fn get_machine_states(
        &self,
        _cx: &Call,
        machines: Vec<ObjRef>,
    ) -> api::Result<Vec<MachineState>> {
        let state = |r: &ObjRef| {
            let id = machine_id(r)?;
            self.0.with(|s| s.machine(id).ok().map(|e| e.state))
        };
        Ok(machines
            .iter()
            .map(|r| state(r).unwrap_or(MachineState::Null))
            .collect())
    }
    fn hard_disks(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(self.media(DeviceType::HardDisk))
    }
    fn dvd_images(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(self.media(DeviceType::DVD))
    }
    fn floppy_images(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(self.media(DeviceType::Floppy))
    }
    fn progress_operations(&self, cx: &Call) -> api::Result<Vec<ObjRef>> {
        let all = self
            .0
            .progresses()
            .into_iter()
            .filter(|p| !p.is_completed());
        Ok(all.map(|p| cx.export(p)).collect())
    }
    fn find_progress_by_id(&self, cx: &Call, id: String) -> api::Result<ObjRef> {
        let id = iprt::uuid::parse(&id).ok_or_else(|| invalid("Invalid progress object GUID"))?;
        let found = self.0.progresses().into_iter().find(|p| p.id() == id);
        found.map(|p| cx.export(p)).ok_or_else(|| {
            not_found(format!(
                "The progress object with the given GUID could not be found: {id}"
            ))
        })
    }
    fn guest_os_types(&self, _cx: &Call) -> api::Result<Vec<GuestOSType>> {
        Ok(ostypes::OS_TYPES
            .iter()
            .map(ostypes::OsType::to_api)
            .collect())
    }
    fn get_guest_os_type(&self, _cx: &Call, id: String) -> api::Result<GuestOSType> {
        let found = ostypes::find(&id).map(ostypes::OsType::to_api);
        found.ok_or_else(|| not_found(format!("'{id}' is not a valid Guest OS type")))
    }
    fn internal_networks(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(self.0.with(|s| {
            let settings = s.machines.iter().filter_map(|m| m.settings().ok());
            let adapters = settings.flat_map(|m| &m.hardware.network);
            let mut all: Vec<String> = adapters
                .map(|a| a.internal.clone())
                .filter(|n| !n.is_empty())
                .collect();
            all.sort();
            all.dedup();
            all
        }))
    }

    // --- Networks of no machine ------------------------------------------------------------------

    fn nat_networks(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(NatNetwork::all(&self.0))
    }
    fn create_nat_network(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        NatNetwork::create(&self.0, &name)
    }
    fn find_nat_network_by_name(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        NatNetwork::find(&self.0, &name, |n| n.name == name)
    }
    fn remove_nat_network(&self, _cx: &Call, network: ObjRef) -> api::Result<()> {
        NatNetwork::remove(&self.0, &network)
    }
    fn host_only_networks(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(HostOnlyNetwork::all(&self.0))
    }
    fn create_host_only_network(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        HostOnlyNetwork::create(&self.0, &name)
    }
    fn find_host_only_network_by_name(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        HostOnlyNetwork::find(&self.0, &name, |n| n.name == name)
    }
    fn find_host_only_network_by_id(&self, _cx: &Call, id: String) -> api::Result<ObjRef> {
        HostOnlyNetwork::find(&self.0, &id, |n| {
            iprt::uuid::parse(&id).is_some_and(|id| iprt::uuid::parse(&n.id) == Some(id))
        })
    }
    fn remove_host_only_network(&self, _cx: &Call, network: ObjRef) -> api::Result<()> {
        HostOnlyNetwork::remove(&self.0, &network)
    }
    fn dhcp_servers(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(DhcpServer::all(&self.0))
    }
    fn create_dhcp_server(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        DhcpServer::create(&self.0, &name)
    }
    fn find_dhcp_server_by_network_name(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        DhcpServer::find(&self.0, &name, |n| n.network_name == name)
    }
    fn remove_dhcp_server(&self, _cx: &Call, server: ObjRef) -> api::Result<()> {
        DhcpServer::remove(&self.0, &server)
    }

    fn compose_machine_filename(
        &self,
        _cx: &Call,
        name: String,
        group: String,
        _flags: String,
        base: String,
    ) -> api::Result<String> {
        Ok(self
            .compose(&name, &group, &base)?
            .to_string_lossy()
            .into_owned())
    }

    fn create_machine(
        &self,
        _cx: &Call,
        settings_file: String,
        name: String,
        groups: Vec<String>,
        os_type_id: String,
        flags: String,
        cipher: String,
        _password_id: String,
        _password: String,
    ) -> api::Result<ObjRef> {
        if !cipher.is_empty() {
            return Err(Error::not_implemented(
                "IVirtualBox",
                "createMachine with encryption",
            ));
        }
        check_name(&name)?;
        let groups = checked_groups(groups)?;
        let id = match flag(&flags, "UUID") {
            None | Some("") => iprt::uuid::random(),
            Some(text) => {
                iprt::uuid::parse(text).ok_or_else(|| invalid(format!("Invalid UUID '{text}'")))?
            }
        };
        let os = match os_type_id.as_str() {
            "" => "Other",
            wanted => {
                ostypes::find(wanted)
                    .ok_or_else(|| not_found(format!("Guest OS type '{wanted}' is invalid")))?
                    .id
            }
        };
        let path = match settings_file.as_str() {
            "" => self.compose(&name, &groups[0], "")?,
            given if Path::new(given).is_absolute() => PathBuf::from(given),
            given => {
                return Err(invalid(format!(
                    "The settings file '{given}' is not an absolute path"
                )));
            }
        };
        let overwrite = flag(&flags, "forceOverwrite") == Some("1");
        if path.exists() && !overwrite {
            return Err(file_error(format!(
                "Machine settings file '{}' already exists",
                path.display()
            )));
        }
        let mut machine = Machine::new(id, name.clone(), os);
        machine.groups = groups;
        machine.last_state_change = iprt::time::Timestamp::now();
        crate::machine::defaults::create(&mut machine)?;
        self.0.with(|s| {
            name_is_free(s, &name, id)?;
            if s.machines.iter().any(|m| m.id == id) {
                let text = format!("A machine with UUID {{{id}}} already exists");
                return Err(Error::new(ResultCode::VBOX_E_OBJECT_IN_USE, text));
            }
            let mut entry = Entry::new(id, path.clone(), Ok(MachineFile::create(path, machine)));
            entry.unsaved = true;
            s.machines.push(entry);
            Ok(machine_path(id))
        })
    }

    fn open_machine(
        &self,
        _cx: &Call,
        settings_file: String,
        password: String,
    ) -> api::Result<ObjRef> {
        if !password.is_empty() {
            return Err(Error::not_implemented(
                "IVirtualBox",
                "openMachine with a password",
            ));
        }
        if !Path::new(&settings_file).is_absolute() {
            return Err(invalid(format!(
                "The settings file '{settings_file}' is not an absolute path"
            )));
        }
        let path = PathBuf::from(settings_file);
        let file = MachineFile::open(&path)?;
        let id = file.machine().uuid;
        self.0.with(|s| {
            if let Some(known) = s.machines.iter().find(|m| m.id == id) {
                if known.registered || known.path != path {
                    return Err(Error::new(
                        ResultCode::VBOX_E_OBJECT_IN_USE,
                        format!(
                            "Trying to open a VM config '{}' which has the same UUID as an existing virtual machine '{}'",
                            path.display(),
                            known.path.display()
                        ),
                    ));
                }
                s.machines.retain(|m| m.id != id);
            }
            s.machines.push(Entry::new(id, path, Ok(file)));
            Ok(machine_path(id))
        })
    }

    fn register_machine(&self, cx: &Call, machine: ObjRef) -> api::Result<()> {
        let id = machine_id(&machine).ok_or_else(|| invalid("The argument is no machine"))?;
        // Registering saves what was never saved.
        let unsaved = self.0.with(|s| {
            let entry = s.machine(id)?;
            if entry.registered {
                let text = format!(
                    "The machine '{}' with UUID {{{id}}} is already registered",
                    entry.name()
                );
                return Err(Error::new(ResultCode::VBOX_E_INVALID_OBJECT_STATE, text));
            }
            name_is_free(s, &entry.settings()?.name.clone(), id)?;
            Ok(entry.unsaved || !entry.path.exists())
        })?;
        let view = View {
            svc: self.0.clone(),
            id,
            mutable: false,
            snapshot: None,
        };
        if unsaved {
            server::IMachine::save_settings(&crate::machine::MachineObject(view), cx)?;
        }
        self.0.with(|s| {
            register_path(s, id)?;
            let entry = s.machine_mut(id)?;
            entry.registered = true;
            let (folder, registry) = (entry.folder().to_owned(), entry.settings()?.media.clone());
            s.media.load(&registry, &folder, Some(id));
            Ok::<_, Error>(())
        })?;
        self.0.fire(
            VBoxEventType::OnMachineRegistered,
            vec![
                ("machineId", id.to_string().into_val()),
                ("registered", Val::Bool(true)),
            ],
        );
        Ok(())
    }

    fn find_machine(&self, _cx: &Call, name_or_id: String) -> api::Result<ObjRef> {
        self.find(&name_or_id).map(machine_path)
    }

    fn create_appliance(&self, cx: &Call) -> api::Result<ObjRef> {
        let appliance = crate::appliance::ApplianceObject::new(self.0.clone());
        Ok(cx.export(Arc::new(appliance)))
    }

    fn create_medium(
        &self,
        _cx: &Call,
        format: String,
        location: String,
        _mode: AccessMode,
        kind: DeviceType,
    ) -> api::Result<ObjRef> {
        medium::create(&self.0, &format, &location, kind).map(medium::path)
    }
    fn open_medium(
        &self,
        _cx: &Call,
        location: String,
        kind: DeviceType,
        _mode: AccessMode,
        force_new_uuid: bool,
    ) -> api::Result<ObjRef> {
        if force_new_uuid {
            return Err(Error::not_implemented(
                "IVirtualBox",
                "openMedium with a new UUID",
            ));
        }
        medium::open(&self.0, &location, kind).map(medium::path)
    }

    fn get_extra_data_keys(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(self
            .0
            .with(|s| s.global.settings().extra_data.keys().cloned().collect()))
    }
    fn get_extra_data(&self, _cx: &Call, key: String) -> api::Result<String> {
        Ok(self.0.with(|s| {
            s.global
                .settings()
                .extra_data
                .get(&key)
                .cloned()
                .unwrap_or_default()
        }))
    }
    fn set_extra_data(&self, _cx: &Call, key: String, value: String) -> api::Result<()> {
        if key.is_empty() || key.chars().any(char::is_control) {
            return Err(invalid("Invalid extra data key"));
        }
        self.0.with(|s| {
            s.global.change(|g| {
                if value.is_empty() {
                    g.extra_data.remove(&key);
                } else {
                    g.extra_data.insert(key.clone(), value.clone());
                }
                Ok(())
            })
        })?;
        self.0.fire(
            VBoxEventType::OnExtraDataChanged,
            vec![
                ("machineId", Val::from("")),
                ("key", Val::Str(key)),
                ("value", Val::Str(value)),
            ],
        );
        Ok(())
    }
}

impl server::IWebsessionManager for VirtualBoxObject {
    fn logon(&self, _cx: &Call, _user: String, _password: String) -> api::Result<ObjRef> {
        // The socket's permissions have checked who it is.
        Ok(ObjRef::new(api::connect::ROOT))
    }
    fn get_session_object(&self, cx: &Call, _virtualbox: ObjRef) -> api::Result<ObjRef> {
        Ok(cx.export(Arc::new(SessionObject(Session::new(self.0.clone(), cx)))))
    }
    fn logoff(&self, _cx: &Call, _virtualbox: ObjRef) -> api::Result<()> {
        Ok(())
    }
}
impl server::IInternalVirtualBox for VirtualBoxObject {
    fn machine_list(
        &self,
        _cx: &Call,
    ) -> api::Result<(Vec<String>, Vec<String>, Vec<MachineState>)> {
        let all = (self.0).with(|s| {
            s.machines
                .iter()
                .filter(|m| m.registered)
                .map(|m| m.id)
                .collect::<Vec<_>>()
        });
        let (mut ids, mut names, mut states) = (Vec::new(), Vec::new(), Vec::new());
        for id in all {
            // Not all under one lock: a file may have to be read. One that is removed meanwhile is
            // left out.
            let found = self.0.with(|s| {
                let accessible = s.accessible_now(id)?;
                let entry = s.machine(id)?;
                let name = if accessible {
                    entry.name()
                } else {
                    String::new()
                };
                Ok::<_, api::Error>((name, entry.state))
            });
            if let Ok((name, state)) = found {
                ids.push(id.to_string());
                names.push(name);
                states.push(state);
            }
        }
        Ok((ids, names, states))
    }
}

api::object!(VirtualBoxObject: IVirtualBox, IWebsessionManager, IInternalVirtualBox);
