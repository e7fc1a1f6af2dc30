//! Between the settings' types and the API's: one word list each way.

use api::{Error, ResultCode, types as t};
use settings::model as m;

/// An API value made of a settings value.
pub trait FromModel<M> {
    fn from_model(model: &M) -> Self;
}

/// A settings value made of an API value, where the settings have a word for it.
pub trait ToModel<M> {
    /// # Errors
    /// `E_INVALIDARG` for a value that settings files cannot hold.
    fn to_model(self) -> api::Result<M>;
}

macro_rules! same {
    ($($type:ty),+) => {$(
        impl FromModel<$type> for $type {
            fn from_model(model: &$type) -> Self {
                model.clone()
            }
        }
        impl ToModel<$type> for $type {
            fn to_model(self) -> api::Result<$type> {
                Ok(self)
            }
        }
    )+};
}

same!(bool, u32, u16, i64, String, Vec<String>);

macro_rules! number {
    ($($api:ty = $model:ty),+) => {$(
        impl FromModel<$model> for $api {
            fn from_model(model: &$model) -> Self {
                <$api>::try_from(*model).unwrap_or(<$api>::MAX)
            }
        }
        impl ToModel<$model> for $api {
            fn to_model(self) -> api::Result<$model> {
                <$model>::try_from(self).map_err(|_| invalid(format!("{self} is out of range")))
            }
        }
    )+};
}

number!(i64 = u64, u32 = u16, i64 = u32, i32 = u32);

macro_rules! words {
    ($($name:ident = $model:ident { $($api:ident = $word:ident),+ $(,)? })+) => {$(
        impl FromModel<m::$model> for t::$name {
            #[allow(unreachable_patterns)]
            fn from_model(model: &m::$model) -> Self {
                match model {
                    $(m::$model::$word => Self::$api,)+
                    // Words newer than the API: its first value.
                    _ => Self::ALL[0],
                }
            }
        }
        impl ToModel<m::$model> for t::$name {
            fn to_model(self) -> api::Result<m::$model> {
                #[allow(unreachable_patterns)]
                match self {
                    $(Self::$api => Ok(m::$model::$word),)+
                    other => Err(invalid(format!("Invalid {} value {}", stringify!($name), other.name()))),
                }
            }
        }
    )+};
}

words! {
    FirmwareType = FirmwareType { BIOS = Bios, EFI = Efi, EFI32 = Efi32, EFI64 = Efi64, EFIDUAL = EfiDual }
    PointingHIDType = PointingHid {
        PS2Mouse = Ps2Mouse, None = None, USBMouse = UsbMouse, USBTablet = UsbTablet,
        ComboMouse = ComboMouse, USBMultiTouch = UsbMultiTouch,
        USBMultiTouchScreenPlusPad = UsbMultiTouchScreenPlusPad,
    }
    KeyboardHIDType = KeyboardHid {
        PS2Keyboard = Ps2Keyboard, None = None, USBKeyboard = UsbKeyboard, ComboKeyboard = ComboKeyboard,
    }
    ChipsetType = ChipsetType { PIIX3 = Piix3, ICH9 = Ich9 }
    IommuType = IommuType { None = None, Automatic = Automatic, AMD = Amd, Intel = Intel }
    ParavirtProvider = ParavirtProvider {
        Default = Default, None = None, Legacy = Legacy, Minimal = Minimal, HyperV = HyperV, KVM = Kvm,
    }
    GraphicsControllerType = GraphicsController {
        Null = None, VBoxVGA = VBoxVga, VMSVGA = Vmsvga, VBoxSVGA = VBoxSvga,
    }
    AuthType = AuthType { Null = Null, Guest = Guest, External = External }
    APICMode = ApicMode { Disabled = Disabled, APIC = Apic, X2APIC = X2Apic }
    BIOSBootMenuMode = BootMenuMode {
        Disabled = Disabled, MenuOnly = MenuOnly, MessageAndMenu = MessageAndMenu,
    }
    TpmType = TpmType { None = None, v1_2 = V1_2, v2_0 = V2_0, Host = Host, Swtpm = Swtpm }
    USBDeviceFilterAction = UsbFilterAction { Ignore = Ignore, Hold = Hold }
    USBControllerType = UsbControllerType { OHCI = Ohci, EHCI = Ehci, XHCI = Xhci }
    NetworkAdapterType = NetworkAdapterType {
        Am79C970A = Am79C970A, Am79C973 = Am79C973, Am79C960 = Am79C960, I82540EM = I82540EM,
        I82543GC = I82543GC, I82545EM = I82545EM, Virtio = Virtio, NE1000 = Ne1000, NE2000 = Ne2000,
        WD8003 = Wd8003, WD8013 = Wd8013, ELNK1 = Elnk1, ELNK2 = Elnk2,
    }
    NetworkAdapterPromiscModePolicy = PromiscuousPolicy {
        Deny = Deny, AllowNetwork = AllowNetwork, AllowAll = AllowAll,
    }
    NetworkAttachmentType = NetworkMode {
        Null = Null, NAT = Nat, Bridged = Bridged, Internal = Internal, HostOnly = HostOnly,
        Generic = Generic, NATNetwork = NatNetwork, HostOnlyNetwork = HostOnlyNetwork, Cloud = Cloud,
    }
    PortMode = PortMode {
        Disconnected = Disconnected, HostPipe = HostPipe, HostDevice = HostDevice,
        RawFile = RawFile, TCP = Tcp,
    }
    UartType = UartType { U16450 = U16450, U16550A = U16550A, U16750 = U16750 }
    AudioControllerType = AudioController { AC97 = Ac97, SB16 = Sb16, HDA = Hda }
    AudioCodecType = AudioCodec {
        Null = Default, SB16 = Sb16, STAC9700 = Stac9700, AD1980 = Ad1980, STAC9221 = Stac9221,
    }
    AudioDriverType = AudioDriver {
        Default = Default, Null = Null, OSS = Oss, ALSA = Alsa, Pulse = Pulse, WinMM = WinMm,
        DirectSound = DirectSound, WAS = Was, CoreAudio = CoreAudio, MMPM = Mmpm, SolAudio = SolAudio,
    }
    ClipboardMode = TransferMode {
        Disabled = Disabled, HostToGuest = HostToGuest, GuestToHost = GuestToHost,
        Bidirectional = Bidirectional,
    }
    DnDMode = TransferMode {
        Disabled = Disabled, HostToGuest = HostToGuest, GuestToHost = GuestToHost,
        Bidirectional = Bidirectional,
    }
    BandwidthGroupType = BandwidthGroupType { Disk = Disk, Network = Network }
    StorageControllerType = StorageControllerType {
        IntelAhci = Ahci, LsiLogic = LsiLogic, BusLogic = BusLogic, PIIX3 = Piix3, PIIX4 = Piix4,
        ICH6 = Ich6, LsiLogicSas = LsiLogicSas, I82078 = I82078, USB = Usb, NVMe = NvMe,
        VirtioSCSI = VirtioScsi,
    }
    DeviceType = DeviceType { HardDisk = HardDisk, DVD = Dvd, Floppy = Floppy }
    MediumType = HardDiskType {
        Normal = Normal, Immutable = Immutable, Writethrough = Writethrough, Shareable = Shareable,
        Readonly = Readonly, MultiAttach = MultiAttach,
    }
    VMProcPriority = ProcessPriority {
        Default = Default, Flat = Flat, Low = Low, Normal = Normal, High = High,
    }
    AutostopType = AutostopType {
        Disabled = Disabled, SaveState = SaveState, PowerOff = PowerOff, AcpiShutdown = AcpiShutdown,
    }
    NATProtocol = NatProtocol { UDP = Udp, TCP = Tcp }
    ProxyMode = ProxyMode { System = System, NoProxy = None, Manual = Manual }
    GuestDebugProvider = GuestDebugProvider { None = None, Native = Native, GDB = Gdb, KD = Kd }
    GuestDebugIoProvider = GuestDebugIo { None = None, TCP = Tcp, UDP = Udp, IPC = Ipc }
}

/// Boot devices are device types, one of them unlike in attachments.
pub fn boot_device(device: m::BootDevice) -> t::DeviceType {
    match device {
        m::BootDevice::None => t::DeviceType::Null,
        m::BootDevice::Floppy => t::DeviceType::Floppy,
        m::BootDevice::Dvd => t::DeviceType::DVD,
        m::BootDevice::HardDisk => t::DeviceType::HardDisk,
        m::BootDevice::Network => t::DeviceType::Network,
    }
}

/// The inverse of [`boot_device`].
///
/// # Errors
/// `E_INVALIDARG` for devices that nothing boots from.
pub fn to_boot_device(device: t::DeviceType) -> api::Result<m::BootDevice> {
    match device {
        t::DeviceType::Null => Ok(m::BootDevice::None),
        t::DeviceType::Floppy => Ok(m::BootDevice::Floppy),
        t::DeviceType::DVD => Ok(m::BootDevice::Dvd),
        t::DeviceType::HardDisk => Ok(m::BootDevice::HardDisk),
        t::DeviceType::Network => Ok(m::BootDevice::Network),
        other => Err(invalid(format!(
            "Booting from {} device is currently not supported",
            other.name()
        ))),
    }
}

/// The bus of a controller model.
pub fn bus(kind: m::StorageControllerType) -> t::StorageBus {
    use m::StorageControllerType as C;
    match kind {
        C::Ahci => t::StorageBus::SATA,
        C::LsiLogic | C::BusLogic => t::StorageBus::SCSI,
        C::Piix3 | C::Piix4 | C::Ich6 => t::StorageBus::IDE,
        C::LsiLogicSas => t::StorageBus::SAS,
        C::I82078 => t::StorageBus::Floppy,
        C::Usb => t::StorageBus::USB,
        C::NvMe => t::StorageBus::PCIe,
        C::VirtioScsi => t::StorageBus::VirtioSCSI,
    }
}

/// The model that a bus starts with.
pub fn default_controller(bus: t::StorageBus) -> Option<m::StorageControllerType> {
    use m::StorageControllerType as C;
    Some(match bus {
        t::StorageBus::Null => return None,
        t::StorageBus::IDE => C::Piix4,
        t::StorageBus::SATA => C::Ahci,
        t::StorageBus::SCSI => C::LsiLogic,
        t::StorageBus::Floppy => C::I82078,
        t::StorageBus::SAS => C::LsiLogicSas,
        t::StorageBus::USB => C::Usb,
        t::StorageBus::PCIe => C::NvMe,
        t::StorageBus::VirtioSCSI => C::VirtioScsi,
    })
}

/// `E_INVALIDARG` with a text.
pub fn invalid(text: impl Into<String>) -> Error {
    Error::new(ResultCode::E_INVALIDARG, text)
}

/// `VBOX_E_OBJECT_NOT_FOUND` with a text.
pub fn not_found(text: impl Into<String>) -> Error {
    Error::new(ResultCode::VBOX_E_OBJECT_NOT_FOUND, text)
}

/// `VBOX_E_FILE_ERROR` with a text.
pub fn file_error(text: impl std::fmt::Display) -> Error {
    Error::new(ResultCode::VBOX_E_FILE_ERROR, text.to_string())
}
