//! `IStorageController`.

use crate::conv::{self, FromModel, ToModel, invalid};
use crate::fields;
use crate::view::{View, gone};
use api::types::*;
use api::{Call, Error, server};
use settings::model as m;

pub struct StorageController {
    pub view: View,
    pub name: String,
}

impl StorageController {
    fn get<R>(&self, f: impl FnOnce(&m::StorageController) -> R) -> api::Result<R> {
        self.view
            .get(|m| m.hardware.controller(&self.name).map(f))?
            .ok_or_else(|| self.missing())
    }

    fn set(&self, f: impl FnOnce(&mut m::StorageController) -> api::Result<()>) -> api::Result<()> {
        self.view.set(|m| {
            f(m.hardware
                .controller_mut(&self.name)
                .ok_or_else(|| self.missing())?)
        })
    }

    fn missing(&self) -> Error {
        gone(&format!("The storage controller '{}'", self.name))
    }
}

impl server::IStorageController for StorageController {
    fields! {
        name: String = name;
        instance / set_instance: u32 = instance;
        port_count: u32 = port_count;
        bootable: bool = bootable;
        use_host_io_cache / set_use_host_io_cache: bool = use_host_io_cache;
        controller_type: StorageControllerType = kind;
    }

    fn set_name(&self, _cx: &Call, value: String) -> api::Result<()> {
        let taken = self.view.get(|m| m.hardware.controller(&value).is_some())?;
        if value.is_empty() || (taken && value != self.name) {
            let text = format!("Storage controller named '{value}' already exists");
            return Err(Error::new(ResultCode::VBOX_E_OBJECT_IN_USE, text));
        }
        self.set(|c| {
            c.name = value;
            Ok(())
        })
    }
    fn bus(&self, _cx: &Call) -> api::Result<StorageBus> {
        self.get(|c| conv::bus(c.kind))
    }
    fn max_devices_per_port_count(&self, _cx: &Call) -> api::Result<u32> {
        self.get(|c| c.kind.devices_per_port())
    }
    fn min_port_count(&self, _cx: &Call) -> api::Result<u32> {
        self.get(|c| c.kind.ports().0)
    }
    fn max_port_count(&self, _cx: &Call) -> api::Result<u32> {
        self.get(|c| c.kind.ports().1)
    }
    fn set_port_count(&self, _cx: &Call, value: u32) -> api::Result<()> {
        self.set(|c| {
            let (min, max, _) = c.kind.ports();
            if !(min..=max).contains(&value) {
                return Err(invalid(format!(
                    "Invalid port count: {value} (must be in range [{min}, {max}])"
                )));
            }
            if c.devices.iter().any(|d| d.port >= value) {
                let text = format!(
                    "A device is attached to a port of '{}' beyond {value}",
                    c.name
                );
                return Err(Error::new(ResultCode::VBOX_E_OBJECT_IN_USE, text));
            }
            c.port_count = value;
            Ok(())
        })
    }
    fn set_controller_type(&self, _cx: &Call, value: StorageControllerType) -> api::Result<()> {
        let kind: m::StorageControllerType = value.to_model()?;
        self.set(|c| {
            if conv::bus(kind) != conv::bus(c.kind) {
                let bus = conv::bus(c.kind).name();
                return Err(invalid(format!(
                    "Invalid controller type {} for a controller of the {bus} bus",
                    StorageControllerType::from_model(&kind).name()
                )));
            }
            let (min, max, _) = kind.ports();
            c.kind = kind;
            c.port_count = c.port_count.clamp(min, max);
            Ok(())
        })
    }
}
api::object!(StorageController: IStorageController);
