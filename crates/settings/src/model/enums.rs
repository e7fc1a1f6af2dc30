//! Settings that take one of a few words. The words are the file's own.

/// Defines an enum with its spelling in settings files. The first variant is the default.
macro_rules! words {
    ($($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $(
                $(#[$vmeta])*
                #[doc = concat!("`", $text, "`")]
                $variant,
            )+
        }

        impl $name {
            /// Every value, the default first.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The spelling in settings files.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value a settings file's word means, in any case: products changed theirs.
            pub fn from_text(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str().eq_ignore_ascii_case(text))
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::ALL[0]
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl crate::value::Value for $name {
            fn parse(text: &str) -> Result<Self, String> {
                Self::from_text(text).ok_or_else(|| {
                    let known: Vec<&str> = Self::ALL.iter().map(|v| v.as_str()).collect();
                    format!("must be one of {}", known.join(", "))
                })
            }

            fn text(&self) -> String {
                self.as_str().to_owned()
            }
        }
    )+};
}

words! {
    /// Firmware of the machine.
    FirmwareType { Bios = "BIOS", Efi = "EFI", Efi32 = "EFI32", Efi64 = "EFI64", EfiDual = "EFIDUAL", }
    /// What moves the guest's pointer.
    PointingHid {
        Ps2Mouse = "PS2Mouse", None = "None", UsbMouse = "USBMouse", UsbTablet = "USBTablet",
        ComboMouse = "ComboMouse", UsbMultiTouch = "USBMultiTouch",
        UsbMultiTouchScreenPlusPad = "USBMTScreenPlusPad",
    }
    /// The guest's keyboard.
    KeyboardHid {
        Ps2Keyboard = "PS2Keyboard", None = "None", UsbKeyboard = "USBKeyboard",
        ComboKeyboard = "ComboKeyboard",
    }
    /// Chipset.
    ChipsetType { Piix3 = "PIIX3", Ich9 = "ICH9", Armv8Virtual = "ARMv8Virtual", }
    /// What processors a machine has (1.20).
    Architecture { X86 = "x86", Arm = "ARM", }
    /// I/O memory management unit (1.19).
    IommuType { None = "None", Automatic = "Automatic", Amd = "AMD", Intel = "Intel", }
    /// Paravirtualization interface shown to the guest (1.15).
    ParavirtProvider {
        Default = "Default", None = "None", Legacy = "Legacy", Minimal = "Minimal",
        HyperV = "HyperV", Kvm = "KVM",
    }
    /// A device to boot from.
    BootDevice { None = "None", Floppy = "Floppy", Dvd = "DVD", HardDisk = "HardDisk", Network = "Network", }
    /// Graphics card. `None` is a machine without one.
    GraphicsController {
        VBoxVga = "VBoxVGA", Vmsvga = "VMSVGA", VBoxSvga = "VBoxSVGA", None = "None",
        QemuRamFb = "QemuRamFB",
    }
    /// How remote display clients are authenticated.
    AuthType { Null = "Null", Guest = "Guest", External = "External", }
    /// How the APIC is set up by the firmware.
    ApicMode { Apic = "APIC", Disabled = "Disabled", X2Apic = "X2APIC", }
    /// The firmware's boot menu.
    BootMenuMode { MessageAndMenu = "MessageAndMenu", Disabled = "Disabled", MenuOnly = "MenuOnly", }
    /// Trusted platform module (1.19).
    TpmType { None = "None", V1_2 = "v1_2", V2_0 = "v2_0", Host = "Host", Swtpm = "Swtpm", }
    /// USB host controller.
    UsbControllerType { Ohci = "OHCI", Ehci = "EHCI", Xhci = "XHCI", }
    /// Model of a network card.
    NetworkAdapterType {
        Am79C970A = "Am79C970A", Am79C973 = "Am79C973", Am79C960 = "Am79C960",
        I82540EM = "82540EM", I82543GC = "82543GC", I82545EM = "82545EM", Virtio = "virtio",
        Ne1000 = "NE1000", Ne2000 = "NE2000", Wd8003 = "WD8003", Wd8013 = "WD8013",
        Elnk1 = "3C501", Elnk2 = "3C503",
    }
    /// Which foreign frames a card may see.
    PromiscuousPolicy { Deny = "Deny", AllowNetwork = "AllowNetwork", AllowAll = "AllowAll", }
    /// Where a serial port leads.
    PortMode {
        Disconnected = "Disconnected", HostPipe = "HostPipe", HostDevice = "HostDevice",
        RawFile = "RawFile", Tcp = "TCP",
    }
    /// Model of a serial port (1.17).
    UartType { U16550A = "16550A", U16450 = "16450", U16750 = "16750", }
    /// Sound card.
    AudioController { Ac97 = "AC97", Sb16 = "SB16", Hda = "HDA", }
    /// Codec on the sound card; empty is the controller's own default.
    AudioCodec { Default = "", Sb16 = "SB16", Stac9700 = "STAC9700", Ad1980 = "AD1980", Stac9221 = "STAC9221", }
    /// Host side of sound.
    AudioDriver {
        Null = "Null", Default = "Default", Oss = "OSS", Alsa = "ALSA", Pulse = "Pulse",
        CoreAudio = "CoreAudio", Mmpm = "MMPM", SolAudio = "SolAudio", WinMm = "WinMM",
        DirectSound = "DirectSound", Was = "WAS",
    }
    /// What the guest's real-time clock shows.
    RtcZone { Local = "local", Utc = "UTC", }
    /// Direction of clipboard or drag and drop.
    TransferMode {
        Disabled = "Disabled", HostToGuest = "HostToGuest", GuestToHost = "GuestToHost",
        Bidirectional = "Bidirectional",
    }
    /// What a bandwidth group limits.
    BandwidthGroupType { Disk = "Disk", Network = "Network", }
    /// Model of a storage controller.
    StorageControllerType {
        Ahci = "AHCI", LsiLogic = "LsiLogic", BusLogic = "BusLogic", Piix3 = "PIIX3",
        Piix4 = "PIIX4", Ich6 = "ICH6", LsiLogicSas = "LsiLogicSas", I82078 = "I82078", Usb = "USB",
        NvMe = "NVMe", VirtioScsi = "VirtioSCSI",
    }
    /// What is attached to a controller.
    DeviceType { HardDisk = "HardDisk", Dvd = "DVD", Floppy = "Floppy", }
    /// How a hard disk image takes part in snapshots and sharing.
    HardDiskType {
        Normal = "Normal", Immutable = "Immutable", Writethrough = "Writethrough",
        Shareable = "Shareable", Readonly = "Readonly", MultiAttach = "MultiAttach",
    }
    /// Scheduling priority of the VM process (1.17).
    ProcessPriority { Default = "Default", Flat = "Flat", Low = "Low", Normal = "Normal", High = "High", }
    /// What happens to a machine when the host shuts down (1.13).
    AutostopType {
        Disabled = "Disabled", SaveState = "SaveState", PowerOff = "PowerOff",
        AcpiShutdown = "AcpiShutdown",
    }
    /// Debugger served to the outside (1.19).
    GuestDebugProvider { None = "None", Native = "Native", Gdb = "GDB", Kd = "KD", }
    /// How that debugger is reached (1.19).
    GuestDebugIo { None = "None", Tcp = "TCP", Udp = "UDP", Ipc = "IPC", }
    /// What to do with a host USB device that matches a filter.
    UsbFilterAction { Ignore = "Ignore", Hold = "Hold", }
    /// How the product reaches the internet.
    ProxyMode { System = "0", None = "1", Manual = "2", }
}

impl StorageControllerType {
    /// Whether each port takes two devices (master and slave, or two floppy drives).
    pub fn devices_per_port(self) -> u32 {
        match self {
            Self::Piix3 | Self::Piix4 | Self::Ich6 | Self::I82078 => 2,
            _ => 1,
        }
    }

    /// Fewest and most ports of this model, and how many a new one has.
    pub fn ports(self) -> (u32, u32, u32) {
        match self {
            Self::Ahci => (1, 30, 1),
            Self::Piix3 | Self::Piix4 | Self::Ich6 => (2, 2, 2),
            Self::I82078 => (1, 1, 1),
            Self::LsiLogic | Self::BusLogic => (16, 16, 16),
            Self::LsiLogicSas => (1, 255, 8),
            Self::Usb => (8, 8, 8),
            Self::NvMe => (1, 255, 1),
            Self::VirtioScsi => (1, 256, 1),
        }
    }
}
