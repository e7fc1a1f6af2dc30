//! The words that command lines and listings use for the API's enumerations.

use api::types::*;

/// `VMState=` of machine-readable listings.
pub fn state_word(state: MachineState) -> &'static str {
    use MachineState as S;
    match state {
        S::PoweredOff => "poweroff",
        S::Saved => "saved",
        S::Teleported => "teleported",
        S::Aborted => "aborted",
        S::AbortedSaved => "aborted-saved",
        S::Running => "running",
        S::Paused => "paused",
        S::Stuck => "gurumeditation",
        S::Teleporting => "teleporting",
        S::LiveSnapshotting => "livesnapshotting",
        S::Starting => "starting",
        S::Stopping => "stopping",
        S::Saving => "saving",
        S::Restoring => "restoring",
        S::TeleportingPausedVM => "teleportingpausedvm",
        S::TeleportingIn => "teleportingin",
        S::DeletingSnapshotOnline => "deletingsnapshotlive",
        S::DeletingSnapshotPaused => "deletingsnapshotlivepaused",
        S::OnlineSnapshotting => "onlinesnapshotting",
        S::RestoringSnapshot => "restoringsnapshot",
        S::DeletingSnapshot => "deletingsnapshot",
        S::SettingUp => "settingup",
        S::Snapshotting => "snapshotting",
        S::Null => "unknown",
    }
}

/// `State:` for people.
pub fn state_text(state: MachineState) -> &'static str {
    use MachineState as S;
    match state {
        S::PoweredOff => "powered off",
        S::Saved => "saved",
        S::Teleported => "teleported",
        S::Aborted => "aborted",
        S::AbortedSaved => "aborted-saved",
        S::Running => "running",
        S::Paused => "paused",
        S::Stuck => "guru meditation",
        S::Teleporting => "teleporting",
        S::LiveSnapshotting => "live snapshotting",
        S::Starting => "starting",
        S::Stopping => "stopping",
        S::Saving => "saving",
        S::Restoring => "restoring",
        S::TeleportingPausedVM => "teleporting paused vm",
        S::TeleportingIn => "teleporting (incoming)",
        S::DeletingSnapshotOnline => "deleting snapshot live",
        S::DeletingSnapshotPaused => "deleting snapshot live paused",
        S::OnlineSnapshotting => "online snapshotting",
        S::RestoringSnapshot => "restoring snapshot",
        S::DeletingSnapshot => "deleting snapshot",
        S::SettingUp => "setting up",
        S::Snapshotting => "offline snapshotting",
        S::Null => "unknown",
    }
}

/// Whether a VM process has the machine.
pub fn is_online(state: MachineState) -> bool {
    use MachineState as S;
    matches!(
        state,
        S::Running
            | S::Paused
            | S::Stuck
            | S::Teleporting
            | S::LiveSnapshotting
            | S::Starting
            | S::Stopping
            | S::Saving
            | S::Restoring
            | S::TeleportingPausedVM
            | S::TeleportingIn
            | S::DeletingSnapshotOnline
            | S::DeletingSnapshotPaused
            | S::OnlineSnapshotting
    )
}

/// The first word of the value; for listings.
pub fn word_of<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    let found = words.iter().find(|(_, v)| *v == value);
    found.map_or("unknown", |(word, _)| word)
}

pub const BOOT_DEVICES: &[(&str, DeviceType)] = &[
    ("none", DeviceType::Null),
    ("floppy", DeviceType::Floppy),
    ("dvd", DeviceType::DVD),
    ("disk", DeviceType::HardDisk),
    ("net", DeviceType::Network),
    ("usb", DeviceType::USB),
    ("shared folder", DeviceType::SharedFolder),
];

/// A boot device for people.
pub fn boot_device_text(device: DeviceType) -> &'static str {
    match device {
        DeviceType::Floppy => "Floppy",
        DeviceType::DVD => "DVD",
        DeviceType::HardDisk => "HardDisk",
        DeviceType::Network => "Network",
        DeviceType::USB => "USB",
        DeviceType::SharedFolder => "Shared Folder",
        _ => "Not Assigned",
    }
}

pub const FIRMWARE: &[(&str, FirmwareType)] = &[
    ("BIOS", FirmwareType::BIOS),
    ("EFI", FirmwareType::EFI),
    ("EFI32", FirmwareType::EFI32),
    ("EFI64", FirmwareType::EFI64),
    ("EFIDUAL", FirmwareType::EFIDUAL),
];

pub const CHIPSETS: &[(&str, ChipsetType)] =
    &[("piix3", ChipsetType::PIIX3), ("ich9", ChipsetType::ICH9)];

pub const IOMMUS: &[(&str, IommuType)] = &[
    ("none", IommuType::None),
    ("automatic", IommuType::Automatic),
    ("amd", IommuType::AMD),
    ("intel", IommuType::Intel),
];

pub const BOOT_MENUS: &[(&str, BIOSBootMenuMode)] = &[
    ("disabled", BIOSBootMenuMode::Disabled),
    ("menuonly", BIOSBootMenuMode::MenuOnly),
    ("messageandmenu", BIOSBootMenuMode::MessageAndMenu),
];

pub const APIC_MODES: &[(&str, APICMode)] = &[
    ("apic", APICMode::APIC),
    ("x2apic", APICMode::X2APIC),
    ("disabled", APICMode::Disabled),
];

pub const PARAVIRT: &[(&str, ParavirtProvider)] = &[
    ("none", ParavirtProvider::None),
    ("default", ParavirtProvider::Default),
    ("legacy", ParavirtProvider::Legacy),
    ("minimal", ParavirtProvider::Minimal),
    ("hyperv", ParavirtProvider::HyperV),
    ("kvm", ParavirtProvider::KVM),
];

pub const GRAPHICS: &[(&str, GraphicsControllerType)] = &[
    ("none", GraphicsControllerType::Null),
    ("vboxvga", GraphicsControllerType::VBoxVGA),
    ("vmsvga", GraphicsControllerType::VMSVGA),
    ("vboxsvga", GraphicsControllerType::VBoxSVGA),
];

pub const PRIORITIES: &[(&str, VMProcPriority)] = &[
    ("default", VMProcPriority::Default),
    ("flat", VMProcPriority::Flat),
    ("low", VMProcPriority::Low),
    ("normal", VMProcPriority::Normal),
    ("high", VMProcPriority::High),
];

/// What `--nicN` takes; the first word of a mode is the one listings show.
pub const ATTACHMENTS: &[(&str, NetworkAttachmentType)] = &[
    ("null", NetworkAttachmentType::Null),
    ("nat", NetworkAttachmentType::NAT),
    ("bridged", NetworkAttachmentType::Bridged),
    ("intnet", NetworkAttachmentType::Internal),
    ("hostonly", NetworkAttachmentType::HostOnly),
    ("Generic", NetworkAttachmentType::Generic),
    ("natnetwork", NetworkAttachmentType::NATNetwork),
    ("hostonlynetwork", NetworkAttachmentType::HostOnlyNetwork),
    ("hostonlynet", NetworkAttachmentType::HostOnlyNetwork),
    ("cloudnetwork", NetworkAttachmentType::Cloud),
    ("cloud", NetworkAttachmentType::Cloud),
];

pub const ADAPTERS: &[(&str, NetworkAdapterType)] = &[
    ("Am79C970A", NetworkAdapterType::Am79C970A),
    ("Am79C973", NetworkAdapterType::Am79C973),
    ("Am79C960", NetworkAdapterType::Am79C960),
    ("82540EM", NetworkAdapterType::I82540EM),
    ("82543GC", NetworkAdapterType::I82543GC),
    ("82545EM", NetworkAdapterType::I82545EM),
    ("virtio", NetworkAdapterType::Virtio),
    ("virtio-net", NetworkAdapterType::Virtio),
    ("NE1000", NetworkAdapterType::NE1000),
    ("NE2000", NetworkAdapterType::NE2000),
    ("WD8003", NetworkAdapterType::WD8003),
    ("WD8013", NetworkAdapterType::WD8013),
    ("3C503", NetworkAdapterType::ELNK2),
    ("3C501", NetworkAdapterType::ELNK1),
];

pub const PROMISCUOUS: &[(&str, NetworkAdapterPromiscModePolicy)] = &[
    ("deny", NetworkAdapterPromiscModePolicy::Deny),
    ("allow-vms", NetworkAdapterPromiscModePolicy::AllowNetwork),
    (
        "allow-network",
        NetworkAdapterPromiscModePolicy::AllowNetwork,
    ),
    ("allow-all", NetworkAdapterPromiscModePolicy::AllowAll),
];

pub const POINTING: &[(&str, PointingHIDType)] = &[
    ("ps2mouse", PointingHIDType::PS2Mouse),
    ("ps2", PointingHIDType::PS2Mouse),
    ("usbmouse", PointingHIDType::USBMouse),
    ("usb", PointingHIDType::USBMouse),
    ("usbtablet", PointingHIDType::USBTablet),
    ("combomouse", PointingHIDType::ComboMouse),
    ("usbmultitouch", PointingHIDType::USBMultiTouch),
    (
        "usbmtscreenpluspad",
        PointingHIDType::USBMultiTouchScreenPlusPad,
    ),
    ("none", PointingHIDType::None),
];

/// A pointing device for people.
pub fn pointing_text(kind: PointingHIDType) -> &'static str {
    match kind {
        PointingHIDType::None => "None",
        PointingHIDType::PS2Mouse => "PS/2 Mouse",
        PointingHIDType::USBMouse => "USB Mouse",
        PointingHIDType::USBTablet => "USB Tablet",
        PointingHIDType::ComboMouse => "USB Tablet and PS/2 Mouse",
        PointingHIDType::USBMultiTouch => "USB Multi-Touch",
        PointingHIDType::USBMultiTouchScreenPlusPad => "USB Multi-Touch TouchScreen and TouchPad",
    }
}

pub const KEYBOARDS: &[(&str, KeyboardHIDType)] = &[
    ("ps2kbd", KeyboardHIDType::PS2Keyboard),
    ("ps2", KeyboardHIDType::PS2Keyboard),
    ("usbkbd", KeyboardHIDType::USBKeyboard),
    ("usb", KeyboardHIDType::USBKeyboard),
    ("combokbd", KeyboardHIDType::ComboKeyboard),
    ("none", KeyboardHIDType::None),
];

/// A keyboard for people.
pub fn keyboard_text(kind: KeyboardHIDType) -> &'static str {
    match kind {
        KeyboardHIDType::None => "None",
        KeyboardHIDType::PS2Keyboard => "PS/2 Keyboard",
        KeyboardHIDType::USBKeyboard => "USB Keyboard",
        KeyboardHIDType::ComboKeyboard => "USB and PS/2 Keyboard",
    }
}

pub const UARTS: &[(&str, UartType)] = &[
    ("16450", UartType::U16450),
    ("16550A", UartType::U16550A),
    ("16750", UartType::U16750),
];

pub const AUDIO_DRIVERS: &[(&str, AudioDriverType)] = &[
    ("default", AudioDriverType::Default),
    ("null", AudioDriverType::Null),
    ("oss", AudioDriverType::OSS),
    ("alsa", AudioDriverType::ALSA),
    ("pulse", AudioDriverType::Pulse),
    ("winmm", AudioDriverType::WinMM),
    ("dsound", AudioDriverType::DirectSound),
    ("directsound", AudioDriverType::DirectSound),
    ("was", AudioDriverType::WAS),
    ("coreaudio", AudioDriverType::CoreAudio),
    ("mmpm", AudioDriverType::MMPM),
    ("solaudio", AudioDriverType::SolAudio),
];

pub const AUDIO_CONTROLLERS: &[(&str, AudioControllerType)] = &[
    ("ac97", AudioControllerType::AC97),
    ("sb16", AudioControllerType::SB16),
    ("hda", AudioControllerType::HDA),
];

pub const AUDIO_CODECS: &[(&str, AudioCodecType)] = &[
    ("stac9700", AudioCodecType::STAC9700),
    ("ad1980", AudioCodecType::AD1980),
    ("stac9221", AudioCodecType::STAC9221),
    ("sb16", AudioCodecType::SB16),
];

pub const CLIPBOARD: &[(&str, ClipboardMode)] = &[
    ("disabled", ClipboardMode::Disabled),
    ("hosttoguest", ClipboardMode::HostToGuest),
    ("guesttohost", ClipboardMode::GuestToHost),
    ("bidirectional", ClipboardMode::Bidirectional),
];

pub const DRAG_AND_DROP: &[(&str, DnDMode)] = &[
    ("disabled", DnDMode::Disabled),
    ("hosttoguest", DnDMode::HostToGuest),
    ("guesttohost", DnDMode::GuestToHost),
    ("bidirectional", DnDMode::Bidirectional),
];

pub const AUTHENTICATION: &[(&str, AuthType)] = &[
    ("null", AuthType::Null),
    ("external", AuthType::External),
    ("guest", AuthType::Guest),
];

pub const TPMS: &[(&str, TpmType)] = &[
    ("none", TpmType::None),
    ("1.2", TpmType::v1_2),
    ("2.0", TpmType::v2_0),
    ("host", TpmType::Host),
    ("swtpm", TpmType::Swtpm),
];

/// What `storagectl --add` takes.
pub const BUSES: &[(&str, StorageBus)] = &[
    ("ide", StorageBus::IDE),
    ("sata", StorageBus::SATA),
    ("scsi", StorageBus::SCSI),
    ("floppy", StorageBus::Floppy),
    ("sas", StorageBus::SAS),
    ("usb", StorageBus::USB),
    ("pcie", StorageBus::PCIe),
    ("virtio-scsi", StorageBus::VirtioSCSI),
    ("virtio", StorageBus::VirtioSCSI),
];

/// Storage controllers as listings show them and `storagectl --controller` takes them.
pub const CONTROLLERS: &[(&str, StorageControllerType)] = &[
    ("LsiLogic", StorageControllerType::LsiLogic),
    ("LsiLogicSas", StorageControllerType::LsiLogicSas),
    ("BusLogic", StorageControllerType::BusLogic),
    ("IntelAhci", StorageControllerType::IntelAhci),
    ("PIIX3", StorageControllerType::PIIX3),
    ("PIIX4", StorageControllerType::PIIX4),
    ("ICH6", StorageControllerType::ICH6),
    ("I82078", StorageControllerType::I82078),
    ("USB", StorageControllerType::USB),
    ("NVMe", StorageControllerType::NVMe),
    ("VirtioSCSI", StorageControllerType::VirtioSCSI),
    ("VirtIO", StorageControllerType::VirtioSCSI),
];

pub const MEDIUM_TYPES: &[(&str, MediumType)] = &[
    ("normal", MediumType::Normal),
    ("immutable", MediumType::Immutable),
    ("writethrough", MediumType::Writethrough),
    ("shareable", MediumType::Shareable),
    ("readonly", MediumType::Readonly),
    ("multiattach", MediumType::MultiAttach),
];

/// What the kinds of image are called on command lines.
pub const IMAGES: &[(&str, DeviceType)] = &[
    ("disk", DeviceType::HardDisk),
    ("dvd", DeviceType::DVD),
    ("floppy", DeviceType::Floppy),
];

/// Drives, as `storageattach --type` takes them.
pub const DRIVES: &[(&str, DeviceType)] = &[
    ("hdd", DeviceType::HardDisk),
    ("dvddrive", DeviceType::DVD),
    ("dvd", DeviceType::DVD),
    ("fdd", DeviceType::Floppy),
    ("floppy", DeviceType::Floppy),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_show_the_words_of_the_command_line() {
        assert_eq!(
            word_of(ATTACHMENTS, NetworkAttachmentType::Internal),
            "intnet"
        );
        assert_eq!(word_of(ADAPTERS, NetworkAdapterType::I82540EM), "82540EM");
        assert_eq!(
            word_of(CONTROLLERS, StorageControllerType::I82078),
            "I82078"
        );
        assert_eq!(word_of(POINTING, PointingHIDType::PS2Mouse), "ps2mouse");
    }

    #[test]
    fn every_value_has_a_word() {
        for state in MachineState::ALL {
            assert!(*state == MachineState::Null || state_word(*state) != "unknown");
        }
        for adapter in NetworkAdapterType::ALL {
            assert!(
                *adapter == NetworkAdapterType::Null || word_of(ADAPTERS, *adapter) != "unknown"
            );
        }
        for controller in StorageControllerType::ALL {
            let word = word_of(CONTROLLERS, *controller);
            assert!(*controller == StorageControllerType::Null || word != "unknown");
        }
        for kind in MediumType::ALL {
            assert_ne!(word_of(MEDIUM_TYPES, *kind), "unknown");
        }
    }
}
