//! What the machine's settings say, read once over the API. Plain data from here on.

use std::path::PathBuf;

use api::types::{
    APICMode, BIOSBootMenuMode, CPUPropertyType, ChipsetType, DeviceType, FirmwareType,
    HWVirtExPropertyType, ParavirtProvider, PortMode, ResultCode, StorageBus,
    StorageControllerType, UartType,
};
use api::{Error, Result, client};

/// Longest chain of differencing images.
const MAX_CHAIN: usize = 1024;
/// CPUID leaves that settings can hold.
const MAX_LEAVES: u32 = 256;
/// Serial ports a machine can have.
const SERIAL_PORTS: u32 = 4;

/// The settings of one machine, as far as this build has rooms for them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name and UUID of the machine.
    pub name: String,
    /// UUID in text form.
    pub id: String,
    /// UUID the guest sees.
    pub hardware_uuid: String,
    /// MiB of RAM.
    pub memory: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// MiB of video memory.
    pub vram: u32,
    /// Hardware virtualization may be used.
    pub hwvirt: bool,
    /// Guest memory in large host pages.
    pub large_pages: bool,
    /// CPUID shows PAE.
    pub pae: bool,
    /// CPUID shows long mode.
    pub long_mode: bool,
    /// CPU profile, `host` or empty for the host's.
    pub cpu_profile: String,
    /// CPUID portability level, 0 to 3.
    pub portability: u32,
    /// CPUID leaves that are put in: leaf, subleaf, EAX, EBX, ECX, EDX.
    pub cpuid: Vec<[u32; 6]>,
    /// How the hypervisor shows itself.
    pub paravirt: ParavirtProvider,
    /// Local APIC flavour.
    pub apic: APICMode,
    /// Whether there is an I/O APIC.
    pub ioapic: bool,
    /// Whether there is ACPI.
    pub acpi: bool,
    /// Whether there is an HPET.
    pub hpet: bool,
    /// The clock chip runs in UTC.
    pub rtc_utc: bool,
    /// Seconds that the host's local time is east of UTC.
    pub seconds_east: i64,
    /// Milliseconds added to the clock chip.
    pub time_offset: i64,
    /// Boot menu of the firmware.
    pub boot_menu: BIOSBootMenuMode,
    /// Boot devices in order.
    pub boot_order: Vec<DeviceType>,
    /// Storage controllers.
    pub controllers: Vec<Controller>,
    /// Drives.
    pub drives: Vec<Drive>,
    /// Serial ports that are on.
    pub serial: Vec<Serial>,
    /// Extra data of all machines, then of this one.
    pub extra_data: Vec<(String, String)>,
    /// What is configured but not part of this build, for the log.
    pub left_out: Vec<String>,
}

/// A storage controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Its name, by which drives refer to it.
    pub name: String,
    /// IDE, floppy ...
    pub bus: StorageBus,
    /// Chip.
    pub kind: StorageControllerType,
}

/// A drive and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Controller's name.
    pub controller: String,
    /// Port on the controller.
    pub port: i32,
    /// Device on the port.
    pub device: i32,
    /// Hard disk, DVD or floppy.
    pub kind: DeviceType,
    /// Image files, base first; empty without a medium.
    pub images: Vec<PathBuf>,
    /// The medium may not be written.
    pub read_only: bool,
    /// Report a solid-state disk.
    pub non_rotational: bool,
    /// Pass discards on.
    pub discard: bool,
}

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// 0 for COM1.
    pub slot: u32,
    /// First port.
    pub io_base: u32,
    /// Interrupt.
    pub irq: u32,
    /// What is on the other end.
    pub mode: PortMode,
    /// Make the socket or pipe rather than connect to it.
    pub server: bool,
    /// Path, or `host:port`, or port.
    pub path: String,
    /// Chip.
    pub uart: UartType,
}

fn refused(text: impl Into<String>) -> Error {
    Error::new(ResultCode::VBOX_E_NOT_SUPPORTED, text)
}

impl Settings {
    /// Reads the settings of `machine`.
    ///
    /// # Errors
    /// The service's, and `VBOX_E_NOT_SUPPORTED` for what a machine cannot do without and this
    /// build does not have.
    pub fn read(machine: &client::Machine, vbox: &client::VirtualBox) -> Result<Self> {
        if machine.firmware_type()? != FirmwareType::BIOS {
            return Err(refused("EFI firmware is not part of this version of Oxbox"));
        }
        if machine.chipset_type()? != ChipsetType::PIIX3 {
            return Err(refused(
                "Only the PIIX3 chipset is part of this version of Oxbox",
            ));
        }
        let bios = machine.bios_settings()?;
        let graphics = machine.graphics_adapter()?;
        let cpu = |p| machine.get_cpu_property(p);
        let boot_order = (1..=4)
            .map(|n| machine.get_boot_order(n))
            .collect::<Result<_>>()?;
        Ok(Self {
            name: machine.name()?,
            id: machine.id()?,
            hardware_uuid: machine.hardware_uuid()?,
            memory: machine.memory_size()?,
            cpus: machine.cpu_count()?,
            vram: graphics.vram_size()?,
            hwvirt: machine.get_hw_virt_ex_property(HWVirtExPropertyType::Enabled)?,
            large_pages: machine.get_hw_virt_ex_property(HWVirtExPropertyType::LargePages)?,
            pae: cpu(CPUPropertyType::PAE)?,
            long_mode: cpu(CPUPropertyType::LongMode)?,
            cpu_profile: machine.cpu_profile()?,
            portability: machine.cpuid_portability_level()?,
            cpuid: cpuid(machine),
            paravirt: machine.get_effective_paravirt_provider()?,
            apic: bios.apic_mode()?,
            ioapic: bios.ioapic_enabled()?,
            acpi: bios.acpi_enabled()?,
            hpet: machine.hpet_enabled()?,
            rtc_utc: machine.rtc_use_utc()?,
            seconds_east: iprt::local::seconds_east(iprt::time::Timestamp::now()),
            time_offset: bios.time_offset()?,
            boot_menu: bios.boot_menu_mode()?,
            boot_order,
            controllers: controllers(machine)?,
            drives: drives(machine)?,
            serial: serial(machine)?,
            extra_data: extra_data(machine, vbox)?,
            left_out: left_out(machine)?,
        })
    }
}

/// The CPUID leaves of the settings; the first ordinal that fails is past the last.
fn cpuid(machine: &client::Machine) -> Vec<[u32; 6]> {
    (0..MAX_LEAVES)
        .map_while(|n| machine.get_cpuid_leaf_by_ordinal(n).ok())
        .map(|(leaf, subleaf, a, b, c, d)| [leaf, subleaf, a, b, c, d])
        .collect()
}

fn controllers(machine: &client::Machine) -> Result<Vec<Controller>> {
    machine
        .storage_controllers()?
        .iter()
        .map(|c| {
            Ok(Controller {
                name: c.name()?,
                bus: c.bus()?,
                kind: c.controller_type()?,
            })
        })
        .collect()
}

/// All drives with their media, as they are configured now.
///
/// # Errors
/// The service's.
pub fn drives(machine: &client::Machine) -> Result<Vec<Drive>> {
    let attachments = machine.medium_attachments()?;
    attachments.iter().map(drive).collect()
}

fn drive(a: &client::MediumAttachment) -> Result<Drive> {
    let mut images = Vec::new();
    let mut read_only = a.type_ == DeviceType::DVD;
    let mut next = a.medium.clone();
    while let Some(medium) = next {
        if medium.host_drive()? {
            return Err(refused("Host drives are not part of this version of Oxbox"));
        }
        if images.is_empty() {
            read_only |= medium.read_only()?;
        }
        images.push(PathBuf::from(medium.location()?));
        if images.len() > MAX_CHAIN {
            return Err(refused("The chain of images is too long"));
        }
        next = medium.parent()?;
    }
    images.reverse();
    Ok(Drive {
        controller: a.controller.clone(),
        port: a.port,
        device: a.device,
        kind: a.type_,
        images,
        read_only,
        non_rotational: a.non_rotational,
        discard: a.discard,
    })
}

fn serial(machine: &client::Machine) -> Result<Vec<Serial>> {
    let mut ports = Vec::new();
    for slot in 0..SERIAL_PORTS {
        let port = machine.get_serial_port(slot)?;
        if port.enabled()? {
            ports.push(Serial {
                slot,
                io_base: port.io_base()?,
                irq: port.irq()?,
                mode: port.host_mode()?,
                server: port.server()?,
                path: port.path()?,
                uart: port.uart_type()?,
            });
        }
    }
    Ok(ports)
}

fn extra_data(
    machine: &client::Machine,
    vbox: &client::VirtualBox,
) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for key in vbox.get_extra_data_keys()? {
        let value = vbox.get_extra_data(&key)?;
        all.push((key, value));
    }
    for key in machine.get_extra_data_keys()? {
        let value = machine.get_extra_data(&key)?;
        all.push((key, value));
    }
    Ok(all)
}

fn left_out(machine: &client::Machine) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for slot in 0..8 {
        if machine.get_network_adapter(slot)?.enabled()? {
            all.push(format!("network adapter {}", slot + 1));
        }
    }
    if !machine.usb_controllers()?.is_empty() {
        all.push("USB".to_owned());
    }
    if machine.audio_settings()?.adapter()?.enabled()? {
        all.push("audio".to_owned());
    }
    if machine.vrde_server()?.enabled()? {
        all.push("remote display".to_owned());
    }
    Ok(all)
}
