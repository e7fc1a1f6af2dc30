//! What a new machine has for its guest operating system.

use crate::conv::ToModel;
use crate::ostypes;
use settings::model::*;

/// What every new machine gets, as `createMachine` makes it: the first network card on, the
/// firmware set up for the guest.
pub fn create(machine: &mut Machine) -> api::Result<()> {
    let Some(os) = ostypes::find(&machine.os_type).map(ostypes::OsType::to_api) else {
        return Ok(());
    };
    let kind: NetworkAdapterType = os.adapter_type.to_model()?;
    let hardware = &mut machine.hardware;
    for slot in 0..8 {
        hardware.adapter_mut(slot).kind = kind;
    }
    let first = hardware.adapter_mut(0);
    first.enabled = true;
    first.mac = crate::host::random_mac();
    first.mode = NetworkMode::Nat;
    hardware.bios.ioapic = os.recommended_ioapic;
    hardware.cpu.pae = os.recommended_pae || os.is64_bit;
    hardware.cpu.long_mode = os.is64_bit;
    Ok(())
}

/// `applyDefaults`: memory, clock and drives as recommended. Disks go to IDE, the bus whose
/// controllers this version has.
pub fn apply(machine: &mut Machine) -> api::Result<()> {
    let Some(os) = ostypes::find(&machine.os_type).map(ostypes::OsType::to_api) else {
        return Ok(());
    };
    let hardware = &mut machine.hardware;
    hardware.memory_mb = os.recommended_ram;
    hardware.display.vram_mb = os.recommended_vram;
    hardware.hpet = os.recommended_hpet;
    hardware.rtc = if os.recommended_rtc_use_utc {
        RtcZone::Utc
    } else {
        RtcZone::Local
    };
    if hardware.storage.is_empty() {
        let mut ide = StorageController::new("IDE", StorageControllerType::Piix4);
        ide.devices.push(AttachedDevice {
            kind: DeviceType::Dvd,
            port: 1,
            ..AttachedDevice::default()
        });
        hardware.storage.push(ide);
    }
    Ok(())
}
