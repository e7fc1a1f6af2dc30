//! Guest operating systems: IDs, names and what new machines for them should have.

use NetworkAdapterType as N;
use api::types::*;

const BITS64: u32 = 1;
const UTC: u32 = 2;
const HPET: u32 = 4;
const EFI: u32 = 8;
const PAE: u32 = 16;
const TABLET: u32 = 32;
/// Disks at a SATA controller; IDE otherwise.
const SATA: u32 = 64;

/// One guest operating system.
#[derive(Debug)]
pub struct OsType {
    pub family_id: &'static str,
    pub family: &'static str,
    pub id: &'static str,
    pub description: &'static str,
    /// MiB.
    ram: u32,
    /// MiB.
    vram: u32,
    /// GiB.
    disk: u32,
    network: NetworkAdapterType,
    flags: u32,
}

#[allow(clippy::too_many_arguments)]
const fn t(
    family_id: &'static str,
    family: &'static str,
    id: &'static str,
    description: &'static str,
    ram: u32,
    vram: u32,
    disk: u32,
    network: NetworkAdapterType,
    flags: u32,
) -> OsType {
    OsType {
        family_id,
        family,
        id,
        description,
        ram,
        vram,
        disk,
        network,
        flags,
    }
}

/// The type of that ID, in any spelling of upper and lower case.
pub fn find(id: &str) -> Option<&'static OsType> {
    OS_TYPES.iter().find(|t| t.id.eq_ignore_ascii_case(id))
}

impl OsType {
    pub fn is_64_bit(&self) -> bool {
        self.flags & BITS64 != 0
    }

    /// All that the API tells of it.
    pub fn to_api(&self) -> GuestOSType {
        let has = |flag: u32| self.flags & flag != 0;
        let (disk_bus, disk) = match has(SATA) {
            true => (StorageBus::SATA, StorageControllerType::IntelAhci),
            false => (StorageBus::IDE, StorageControllerType::PIIX4),
        };
        GuestOSType {
            family_id: self.family_id.to_owned(),
            family_description: self.family.to_owned(),
            id: self.id.to_owned(),
            description: self.description.to_owned(),
            is64_bit: self.is_64_bit(),
            recommended_ioapic: self.is_64_bit() || has(SATA),
            recommended_virt_ex: self.is_64_bit(),
            recommended_ram: self.ram,
            recommended_graphics_controller: GraphicsControllerType::VBoxVGA,
            recommended_vram: self.vram,
            recommended2d_video_acceleration: false,
            recommended3d_acceleration: false,
            recommended_hdd: i64::from(self.disk) << 30,
            adapter_type: self.network,
            recommended_pae: has(PAE),
            recommended_dvd_storage_controller: StorageControllerType::PIIX4,
            recommended_dvd_storage_bus: StorageBus::IDE,
            recommended_hd_storage_controller: disk,
            recommended_hd_storage_bus: disk_bus,
            recommended_firmware: if has(EFI) {
                FirmwareType::EFI
            } else {
                FirmwareType::BIOS
            },
            recommended_usbhid: false,
            recommended_hpet: has(HPET),
            recommended_usb_tablet: has(TABLET),
            recommended_rtc_use_utc: has(UTC),
            recommended_chipset: ChipsetType::PIIX3,
            recommended_iommu_type: IommuType::None,
            recommended_audio_controller: AudioControllerType::AC97,
            recommended_audio_codec: AudioCodecType::STAC9700,
            recommended_floppy: false,
            recommended_usb: true,
            recommended_usb3: false,
            recommended_tf_reset: false,
            recommended_x2apic: false,
            recommended_cpu_count: 1,
            recommended_tpm_type: TpmType::None,
            recommended_secure_boot: false,
            recommended_wddm_graphics: false,
        }
    }
}

/// In VirtualBox's order: families, then age.
#[rustfmt::skip]
pub static OS_TYPES: &[OsType] = &[
    t("Other", "Other", "Other", "Other/Unknown", 64, 4, 2, N::Am79C973, 0),
    t("Other", "Other", "Other_64", "Other/Unknown (64-bit)", 64, 4, 2, N::I82540EM, BITS64),
    t("Windows", "Microsoft Windows", "Windows31", "Windows 3.1", 32, 4, 1, N::Am79C973, 0),
    t("Windows", "Microsoft Windows", "Windows95", "Windows 95", 64, 4, 2, N::Am79C973, 0),
    t("Windows", "Microsoft Windows", "Windows98", "Windows 98", 64, 4, 2, N::Am79C973, 0),
    t("Windows", "Microsoft Windows", "WindowsMe", "Windows ME", 128, 4, 4, N::Am79C973, 0),
    t("Windows", "Microsoft Windows", "WindowsNT3x", "Windows NT 3.x", 64, 8, 2, N::Am79C973, 0),
    t("Windows", "Microsoft Windows", "WindowsNT4", "Windows NT 4", 128, 16, 2, N::Am79C973, 0),
    t("Windows", "Microsoft Windows", "Windows2000", "Windows 2000", 168, 16, 4, N::Am79C973, 0),
    t("Windows", "Microsoft Windows", "WindowsXP", "Windows XP (32-bit)", 192, 16, 10, N::Am79C973, PAE),
    t("Windows", "Microsoft Windows", "WindowsXP_64", "Windows XP (64-bit)", 512, 16, 10, N::I82540EM, BITS64 | PAE),
    t("Windows", "Microsoft Windows", "Windows2003", "Windows 2003 (32-bit)", 512, 16, 20, N::Am79C973, PAE),
    t("Windows", "Microsoft Windows", "Windows2003_64", "Windows 2003 (64-bit)", 512, 16, 20, N::I82540EM, BITS64 | PAE),
    t("Windows", "Microsoft Windows", "WindowsVista", "Windows Vista (32-bit)", 512, 16, 25, N::I82540EM, PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "WindowsVista_64", "Windows Vista (64-bit)", 512, 16, 25, N::I82540EM, BITS64 | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows2008", "Windows 2008 (32-bit)", 1024, 16, 32, N::I82540EM, PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows2008_64", "Windows 2008 (64-bit)", 2048, 16, 32, N::I82540EM, BITS64 | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows7", "Windows 7 (32-bit)", 1024, 18, 32, N::I82540EM, PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows7_64", "Windows 7 (64-bit)", 2048, 27, 32, N::I82540EM, BITS64 | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows8", "Windows 8 (32-bit)", 1024, 128, 40, N::I82540EM, HPET | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows8_64", "Windows 8 (64-bit)", 2048, 128, 40, N::I82540EM, BITS64 | HPET | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows81", "Windows 8.1 (32-bit)", 1024, 128, 40, N::I82540EM, HPET | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows81_64", "Windows 8.1 (64-bit)", 2048, 128, 40, N::I82540EM, BITS64 | HPET | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows2012_64", "Windows 2012 (64-bit)", 2048, 128, 50, N::I82540EM, BITS64 | HPET | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows10", "Windows 10 (32-bit)", 1024, 128, 50, N::I82540EM, HPET | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows10_64", "Windows 10 (64-bit)", 2048, 128, 50, N::I82540EM, BITS64 | HPET | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows2016_64", "Windows 2016 (64-bit)", 2048, 128, 50, N::I82540EM, BITS64 | HPET | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows2019_64", "Windows 2019 (64-bit)", 2048, 128, 50, N::I82540EM, BITS64 | HPET | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows2022_64", "Windows 2022 (64-bit)", 2048, 128, 50, N::I82540EM, BITS64 | HPET | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "Windows11_64", "Windows 11 (64-bit)", 4096, 128, 80, N::I82540EM, BITS64 | HPET | EFI | PAE | TABLET | SATA),
    t("Windows", "Microsoft Windows", "WindowsNT", "Other Windows (32-bit)", 512, 16, 20, N::Am79C973, PAE),
    t("Windows", "Microsoft Windows", "WindowsNT_64", "Other Windows (64-bit)", 512, 16, 20, N::I82540EM, BITS64 | PAE),
    t("Linux", "Linux", "Linux22", "Linux 2.2", 64, 4, 2, N::Am79C973, UTC),
    t("Linux", "Linux", "Linux24", "Linux 2.4 (32-bit)", 128, 16, 4, N::Am79C973, UTC),
    t("Linux", "Linux", "Linux24_64", "Linux 2.4 (64-bit)", 1024, 16, 4, N::I82540EM, BITS64 | UTC),
    t("Linux", "Linux", "Linux26", "Linux 2.6 / 3.x / 4.x / 5.x (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Linux26_64", "Linux 2.6 / 3.x / 4.x / 5.x (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "ArchLinux", "Arch Linux (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "ArchLinux_64", "Arch Linux (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Debian", "Debian (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Debian_64", "Debian (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Debian31", "Debian 3.1 Sarge", 1024, 16, 8, N::Am79C973, UTC),
    t("Linux", "Linux", "Debian4", "Debian 4.0 Etch (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Debian4_64", "Debian 4.0 Etch (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Debian5", "Debian 5.0 Lenny (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Debian5_64", "Debian 5.0 Lenny (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Debian6", "Debian 6.0 Squeeze (32-bit)", 1024, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Debian6_64", "Debian 6.0 Squeeze (64-bit)", 1024, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Debian7", "Debian 7 Wheezy (32-bit)", 2048, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Debian7_64", "Debian 7 Wheezy (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Debian8", "Debian 8 Jessie (32-bit)", 2048, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Debian8_64", "Debian 8 Jessie (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Debian9", "Debian 9 Stretch (32-bit)", 2048, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Debian9_64", "Debian 9 Stretch (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Debian10", "Debian 10 Buster (32-bit)", 2048, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Debian10_64", "Debian 10 Buster (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Debian11", "Debian 11 Bullseye (32-bit)", 2048, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Debian11_64", "Debian 11 Bullseye (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Debian12", "Debian 12 Bookworm (32-bit)", 2048, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Debian12_64", "Debian 12 Bookworm (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Fedora", "Fedora (32-bit)", 2048, 16, 15, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Fedora_64", "Fedora (64-bit)", 2048, 16, 15, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Gentoo", "Gentoo (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Gentoo_64", "Gentoo (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Mandriva", "Mandriva (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Mandriva_64", "Mandriva (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "OpenMandriva_Lx", "OpenMandriva Lx (32-bit)", 2048, 16, 10, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "OpenMandriva_Lx_64", "OpenMandriva Lx (64-bit)", 2048, 16, 10, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "PCLinuxOS", "PCLinuxOS / PCLOS (32-bit)", 2048, 16, 10, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "PCLinuxOS_64", "PCLinuxOS / PCLOS (64-bit)", 2048, 16, 10, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Mageia", "Mageia (32-bit)", 2048, 16, 10, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Mageia_64", "Mageia (64-bit)", 2048, 16, 10, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Oracle", "Oracle Linux (32-bit)", 2048, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Oracle_64", "Oracle Linux (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Oracle6", "Oracle Linux 6.x (32-bit)", 2048, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Oracle6_64", "Oracle Linux 6.x (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "RedHat", "Red Hat (32-bit)", 2048, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "RedHat_64", "Red Hat (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "RedHat3", "Red Hat 3.x (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "RedHat3_64", "Red Hat 3.x (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "RedHat4", "Red Hat 4.x (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "RedHat4_64", "Red Hat 4.x (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "RedHat5", "Red Hat 5.x (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "RedHat5_64", "Red Hat 5.x (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "RedHat6", "Red Hat 6.x (32-bit)", 2048, 16, 20, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "RedHat6_64", "Red Hat 6.x (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "OpenSUSE", "openSUSE (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "OpenSUSE_64", "openSUSE (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "OpenSUSE_Leap_64", "openSUSE Leap (64-bit)", 2048, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "OpenSUSE_Tumbleweed", "openSUSE Tumbleweed (32-bit)", 2048, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "OpenSUSE_Tumbleweed_64", "openSUSE Tumbleweed (64-bit)", 2048, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "SUSE_LE", "SUSE Linux Enterprise (32-bit)", 2048, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "SUSE_LE_64", "SUSE Linux Enterprise (64-bit)", 2048, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Turbolinux", "Turbolinux (32-bit)", 384, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Turbolinux_64", "Turbolinux (64-bit)", 384, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu", "Ubuntu (32-bit)", 2048, 16, 25, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu_64", "Ubuntu (64-bit)", 2048, 16, 25, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu10_LTS", "Ubuntu 10.04 LTS (Lucid Lynx) (32-bit)", 2048, 16, 25, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu10_LTS_64", "Ubuntu 10.04 LTS (Lucid Lynx) (64-bit)", 2048, 16, 25, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu12_LTS", "Ubuntu 12.04 LTS (Precise Pangolin) (32-bit)", 2048, 16, 25, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu12_LTS_64", "Ubuntu 12.04 LTS (Precise Pangolin) (64-bit)", 2048, 16, 25, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu14_LTS", "Ubuntu 14.04 LTS (Trusty Tahr) (32-bit)", 2048, 16, 25, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu14_LTS_64", "Ubuntu 14.04 LTS (Trusty Tahr) (64-bit)", 2048, 16, 25, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu16_LTS", "Ubuntu 16.04 LTS (Xenial Xerus) (32-bit)", 2048, 16, 25, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu16_LTS_64", "Ubuntu 16.04 LTS (Xenial Xerus) (64-bit)", 2048, 16, 25, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu18_LTS", "Ubuntu 18.04 LTS (Bionic Beaver) (32-bit)", 2048, 16, 25, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu18_LTS_64", "Ubuntu 18.04 LTS (Bionic Beaver) (64-bit)", 2048, 16, 25, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu20_LTS_64", "Ubuntu 20.04 LTS (Focal Fossa) (64-bit)", 2048, 16, 25, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Ubuntu22_LTS_64", "Ubuntu 22.04 LTS (Jammy Jellyfish) (64-bit)", 2048, 16, 25, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Lubuntu", "Lubuntu (32-bit)", 1024, 16, 10, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Lubuntu_64", "Lubuntu (64-bit)", 1024, 16, 10, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Xubuntu", "Xubuntu (32-bit)", 1024, 16, 10, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Xubuntu_64", "Xubuntu (64-bit)", 1024, 16, 10, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Xandros", "Xandros (32-bit)", 1024, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Xandros_64", "Xandros (64-bit)", 1024, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Linux", "Other Linux (32-bit)", 256, 16, 8, N::I82540EM, UTC | PAE | TABLET | SATA),
    t("Linux", "Linux", "Linux_64", "Other Linux (64-bit)", 256, 16, 8, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Oracle7_64", "Oracle Linux 7.x (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Oracle8_64", "Oracle Linux 8.x (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "Oracle9_64", "Oracle Linux 9.x (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "RedHat7_64", "Red Hat 7.x (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "RedHat8_64", "Red Hat 8.x (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Linux", "Linux", "RedHat9_64", "Red Hat 9.x (64-bit)", 2048, 16, 20, N::I82540EM, BITS64 | UTC | TABLET | SATA),
    t("Solaris", "Solaris", "Solaris", "Oracle Solaris 10 5/09 and earlier (32-bit)", 1024, 16, 32, N::I82540EM, SATA),
    t("Solaris", "Solaris", "Solaris_64", "Oracle Solaris 10 5/09 and earlier (64-bit)", 2048, 16, 32, N::I82540EM, BITS64 | SATA),
    t("Solaris", "Solaris", "OpenSolaris", "Oracle Solaris 10 10/09 and later (32-bit)", 1024, 16, 32, N::I82540EM, SATA),
    t("Solaris", "Solaris", "OpenSolaris_64", "Oracle Solaris 10 10/09 and later (64-bit)", 2048, 16, 32, N::I82540EM, BITS64 | SATA),
    t("Solaris", "Solaris", "Solaris11_64", "Oracle Solaris 11 (64-bit)", 4096, 16, 32, N::I82540EM, BITS64 | SATA),
    t("BSD", "BSD", "FreeBSD", "FreeBSD (32-bit)", 1024, 16, 16, N::I82540EM, UTC),
    t("BSD", "BSD", "FreeBSD_64", "FreeBSD (64-bit)", 1024, 16, 16, N::I82540EM, BITS64 | UTC),
    t("BSD", "BSD", "OpenBSD", "OpenBSD (32-bit)", 1024, 16, 16, N::I82540EM, UTC),
    t("BSD", "BSD", "OpenBSD_64", "OpenBSD (64-bit)", 1024, 16, 16, N::I82540EM, BITS64 | UTC),
    t("BSD", "BSD", "NetBSD", "NetBSD (32-bit)", 1024, 16, 16, N::I82540EM, UTC),
    t("BSD", "BSD", "NetBSD_64", "NetBSD (64-bit)", 1024, 16, 16, N::I82540EM, BITS64 | UTC),
    t("OS2", "IBM OS/2", "OS2", "Other OS/2", 96, 4, 2, N::Am79C973, 0),
    t("OS2", "IBM OS/2", "OS2eCS", "eComStation", 96, 4, 2, N::Am79C973, 0),
    t("OS2", "IBM OS/2", "OS2ArcaOS", "ArcaOS", 96, 4, 2, N::Am79C973, 0),
    t("OS2", "IBM OS/2", "OS2Warp45", "OS/2 Warp 4.5", 96, 4, 2, N::Am79C973, 0),
    t("OS2", "IBM OS/2", "OS2Warp4", "OS/2 Warp 4", 96, 4, 2, N::Am79C973, 0),
    t("OS2", "IBM OS/2", "OS2Warp3", "OS/2 Warp 3", 96, 4, 2, N::Am79C973, 0),
    t("OS2", "IBM OS/2", "OS21x", "OS/2 1.x", 8, 4, 1, N::Am79C973, 0),
    t("MacOS", "Mac OS X", "MacOS", "Mac OS X (32-bit)", 2048, 16, 20, N::I82543GC, UTC | HPET | EFI | SATA),
    t("MacOS", "Mac OS X", "MacOS_64", "Mac OS X (64-bit)", 2048, 16, 20, N::I82543GC, BITS64 | UTC | HPET | EFI | SATA),
    t("MacOS", "Mac OS X", "MacOS106", "Mac OS X 10.6 Snow Leopard (32-bit)", 2048, 16, 20, N::I82543GC, UTC | HPET | EFI | SATA),
    t("MacOS", "Mac OS X", "MacOS106_64", "Mac OS X 10.6 Snow Leopard (64-bit)", 2048, 16, 20, N::I82543GC, BITS64 | UTC | HPET | EFI | SATA),
    t("MacOS", "Mac OS X", "MacOS107_64", "Mac OS X 10.7 Lion (64-bit)", 2048, 16, 20, N::I82543GC, BITS64 | UTC | HPET | EFI | SATA),
    t("MacOS", "Mac OS X", "MacOS108_64", "Mac OS X 10.8 Mountain Lion (64-bit)", 2048, 16, 20, N::I82543GC, BITS64 | UTC | HPET | EFI | SATA),
    t("MacOS", "Mac OS X", "MacOS109_64", "Mac OS X 10.9 Mavericks (64-bit)", 2048, 16, 20, N::I82543GC, BITS64 | UTC | HPET | EFI | SATA),
    t("MacOS", "Mac OS X", "MacOS1010_64", "Mac OS X 10.10 Yosemite (64-bit)", 2048, 16, 20, N::I82543GC, BITS64 | UTC | HPET | EFI | SATA),
    t("MacOS", "Mac OS X", "MacOS1011_64", "Mac OS X 10.11 El Capitan (64-bit)", 2048, 16, 20, N::I82543GC, BITS64 | UTC | HPET | EFI | SATA),
    t("MacOS", "Mac OS X", "MacOS1012_64", "macOS 10.12 Sierra (64-bit)", 2048, 16, 20, N::I82543GC, BITS64 | UTC | HPET | EFI | SATA),
    t("MacOS", "Mac OS X", "MacOS1013_64", "macOS 10.13 High Sierra (64-bit)", 2048, 16, 20, N::I82543GC, BITS64 | UTC | HPET | EFI | SATA),
    t("Other", "Other", "DOS", "DOS", 32, 4, 1, N::Am79C973, 0),
    t("Other", "Other", "Netware", "Netware", 512, 4, 4, N::Am79C973, 0),
    t("Other", "Other", "L4", "L4", 64, 4, 2, N::Am79C973, 0),
    t("Other", "Other", "QNX", "QNX", 512, 4, 4, N::Am79C973, 0),
    t("Other", "Other", "JRockitVE", "JRockitVE", 1024, 4, 8, N::I82545EM, 0),
    t("Other", "Other", "VBoxBS_64", "VirtualBox Bootsector Test (64-bit)", 128, 4, 2, N::I82540EM, BITS64),
];
