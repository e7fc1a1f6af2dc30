//! Serial and parallel ports, USB controllers and filters, shared folders.

use crate::conv::{FromModel, ToModel, invalid};
use crate::view::{View, gone};
use crate::{constants, fields};
use api::types::*;
use api::{Call, server};
use settings::model as m;

pub struct SerialPort {
    pub view: View,
    pub slot: u32,
}

impl SerialPort {
    fn get<R>(&self, f: impl FnOnce(&m::SerialPort) -> R) -> api::Result<R> {
        self.view.get(|m| f(&m.hardware.serial_port(self.slot)))
    }
    fn set(&self, f: impl FnOnce(&mut m::SerialPort) -> api::Result<()>) -> api::Result<()> {
        self.view.set(|m| f(m.hardware.serial_port_mut(self.slot)))
    }
}

impl server::ISerialPort for SerialPort {
    fields! {
        slot: u32 = slot;
        enabled / set_enabled: bool = enabled;
        io_base: u32 = io_base;
        irq: u32 = irq;
        host_mode: PortMode = mode;
        server / set_server: bool = server;
        path: String = path;
        uart_type / set_uart_type: UartType = uart;
    }

    fn set_io_base(&self, _cx: &Call, value: u32) -> api::Result<()> {
        if value > 0xffff {
            return Err(invalid(format!(
                "Invalid I/O port base address of the serial port {}: {value} (must be in range [0, 0xffff])",
                self.slot
            )));
        }
        self.set(|p| {
            p.io_base = value;
            Ok(())
        })
    }
    fn set_irq(&self, _cx: &Call, value: u32) -> api::Result<()> {
        if value > 255 {
            return Err(invalid(format!(
                "Invalid IRQ number of the serial port {}: {value} (must be in range [0, 255])",
                self.slot
            )));
        }
        self.set(|p| {
            p.irq = value;
            Ok(())
        })
    }
    fn set_host_mode(&self, _cx: &Call, value: PortMode) -> api::Result<()> {
        let mode: m::PortMode = value.to_model()?;
        self.set(|p| {
            if mode != m::PortMode::Disconnected && p.path.is_empty() {
                return Err(invalid(format!(
                    "Cannot set the {} mode of the serial port {} because the path is not specified",
                    PortMode::from_model(&mode).name(),
                    p.slot
                )));
            }
            p.mode = mode;
            Ok(())
        })
    }
    fn set_path(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set(|p| {
            if value.is_empty() && p.mode != m::PortMode::Disconnected {
                let text = "The path of a connected serial port must not be empty";
                return Err(invalid(text));
            }
            p.path = value;
            Ok(())
        })
    }
}
api::object!(SerialPort: ISerialPort);

pub struct ParallelPort {
    pub view: View,
    pub slot: u32,
}

impl ParallelPort {
    fn get<R>(&self, f: impl FnOnce(&m::ParallelPort) -> R) -> api::Result<R> {
        self.view.get(|m| f(&m.hardware.parallel_port(self.slot)))
    }
    fn set(&self, f: impl FnOnce(&mut m::ParallelPort) -> api::Result<()>) -> api::Result<()> {
        self.view
            .set(|m| f(m.hardware.parallel_port_mut(self.slot)))
    }
}

impl server::IParallelPort for ParallelPort {
    fields! {
        slot: u32 = slot;
        enabled / set_enabled: bool = enabled;
        io_base / set_io_base: u32 = io_base;
        irq / set_irq: u32 = irq;
        path / set_path: String = path;
    }
}
api::object!(ParallelPort: IParallelPort);

pub struct UsbController {
    pub view: View,
    pub index: usize,
}

impl UsbController {
    fn get<R>(&self, f: impl FnOnce(&m::UsbController) -> R) -> api::Result<R> {
        self.view
            .get(|m| m.hardware.usb.controllers.get(self.index).map(f))?
            .ok_or_else(|| gone("The USB controller"))
    }
    fn set(&self, f: impl FnOnce(&mut m::UsbController) -> api::Result<()>) -> api::Result<()> {
        self.view.set(|m| {
            let controller = m.hardware.usb.controllers.get_mut(self.index);
            f(controller.ok_or_else(|| gone("The USB controller"))?)
        })
    }
}

impl server::IUSBController for UsbController {
    fields! {
        name / set_name: String = name;
        type_ / set_type_: USBControllerType = kind;
    }
    fn usb_standard(&self, _cx: &Call) -> api::Result<u16> {
        self.get(|c| match c.kind {
            m::UsbControllerType::Ohci => 0x0101,
            m::UsbControllerType::Ehci => 0x0200,
            m::UsbControllerType::Xhci => 0x0300,
        })
    }
}
api::object!(UsbController: IUSBController);

pub struct SharedFolder {
    pub view: View,
    pub index: usize,
}

impl SharedFolder {
    fn get<R>(&self, f: impl FnOnce(&m::SharedFolder) -> R) -> api::Result<R> {
        self.view
            .get(|m| m.hardware.shared_folders.get(self.index).map(f))?
            .ok_or_else(|| gone("The shared folder"))
    }
    fn set(&self, f: impl FnOnce(&mut m::SharedFolder) -> api::Result<()>) -> api::Result<()> {
        self.view.change(crate::view::When::Any, |m| {
            let folder = m.hardware.shared_folders.get_mut(self.index);
            f(folder.ok_or_else(|| gone("The shared folder"))?)
        })
    }
}

impl server::ISharedFolder for SharedFolder {
    fields! {
        name: String = name;
        host_path: String = host_path;
        writable / set_writable: bool = writable;
        auto_mount / set_auto_mount: bool = auto_mount;
        auto_mount_point / set_auto_mount_point: String = auto_mount_point;
    }
    constants! {
        last_access_error: String = String::new();
    }
    fn accessible(&self, _cx: &Call) -> api::Result<bool> {
        self.get(|f| std::path::Path::new(&f.host_path).is_dir())
    }
}
api::object!(SharedFolder: ISharedFolder);
