//! Settings format versions, and every place where their shape differs.

use std::fmt;

/// A settings format version `1.N`. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u16);

impl Version {
    /// VirtualBox 2.1 while it was made.
    pub const V1_4: Self = Self(4);
    /// VirtualBox 2.1 while it was made.
    pub const V1_5: Self = Self(5);
    /// VirtualBox 2.2 and 3.0.
    pub const V1_7: Self = Self(7);
    /// VirtualBox 3.1 while it was made.
    pub const V1_8: Self = Self(8);
    /// VirtualBox 3.1.
    pub const V1_9: Self = Self(9);
    /// VirtualBox 3.2.
    pub const V1_10: Self = Self(10);
    /// VirtualBox 4.0.
    pub const V1_11: Self = Self(11);
    /// VirtualBox 4.1.
    pub const V1_12: Self = Self(12);
    /// VirtualBox 4.2.
    pub const V1_13: Self = Self(13);
    /// VirtualBox 4.3.
    pub const V1_14: Self = Self(14);
    /// VirtualBox 5.0.
    pub const V1_15: Self = Self(15);
    /// VirtualBox 5.1 and 5.2.
    pub const V1_16: Self = Self(16);
    /// VirtualBox 6.0.
    pub const V1_17: Self = Self(17);
    /// VirtualBox 6.1.
    pub const V1_18: Self = Self(18);
    /// VirtualBox 7.0.
    pub const V1_19: Self = Self(19);
    /// VirtualBox 7.1.
    pub const V1_20: Self = Self(20);

    /// The version before which nothing is read (VirtualBox 2.0).
    pub const OLDEST: Self = Self(3);
    /// The version before which nothing is written: older files that change become this one.
    pub const OLDEST_WRITTEN: Self = Self::V1_7;
    /// What a new machine starts at, to be raised by what its settings need.
    pub const NEW_MACHINE: Self = Self::V1_12;
    /// What a new `VirtualBox.xml` starts at; real ones stay there through 6.1.
    pub const NEW_GLOBAL: Self = Self::V1_12;
    /// The newest version written, and read in full.
    pub const NEWEST: Self = Self::V1_20;

    /// The number after the dot.
    pub fn minor(self) -> u16 {
        self.0
    }

    /// `1.N`, if it is between [`OLDEST`](Self::OLDEST) and [`NEWEST`](Self::NEWEST).
    pub fn from_minor(minor: u16) -> Option<Self> {
        (Self::OLDEST.0..=Self::NEWEST.0)
            .contains(&minor)
            .then_some(Self(minor))
    }

    // What differs between the versions, beside values that did not exist yet (those are marked
    // with `since` where they are read and written, in `codec`) and the shapes of which `shape`
    // makes that of 1.11 to 1.19.

    /// From 1.16 on, settings at their default are left out of the file.
    pub(crate) fn omits_defaults(self) -> bool {
        self >= Self::V1_16
    }

    /// `StorageControllers` is inside `Hardware` from 1.19 on, beside it before.
    pub(crate) fn storage_inside_hardware(self) -> bool {
        self >= Self::V1_19
    }

    /// `USB/Controllers` and `USB/DeviceFilters` from 1.14 on; one `USBController` before.
    pub(crate) fn usb_controller_list(self) -> bool {
        self >= Self::V1_14
    }

    /// `maxBytesPerSec` from 1.13 on, `maxMbPerSec` before.
    pub(crate) fn bandwidth_in_bytes(self) -> bool {
        self >= Self::V1_13
    }

    /// A network card that does not say is unplugged before 1.16, plugged in since.
    pub(crate) fn cables_are_plugged(self) -> bool {
        self >= Self::V1_16
    }

    /// Until 1.18, sound that is on is on in both directions unless the file says otherwise; from
    /// 1.19 on, a direction that is not mentioned is off.
    pub(crate) fn audio_directions_follow(self) -> bool {
        self < Self::V1_19
    }

    /// Until 1.18, NAT lets guests reach the host's loopback; from 1.19 on only if the file says.
    pub(crate) fn nat_reaches_localhost(self) -> bool {
        self < Self::V1_19
    }

    /// `Hardware/@version` is always written before 1.16. A file before 1.7 that does not have it
    /// means 1, a newer one 2: some versions left it out by mistake.
    pub(crate) fn has_hardware_version(self) -> bool {
        (Self::V1_4..Self::V1_16).contains(&self)
    }

    /// The hardware version of a file that does not say.
    pub(crate) fn default_hardware_version(self) -> u32 {
        if self < Self::V1_7 { 1 } else { 2 }
    }

    /// `DVDDrive` and `FloppyDrive` in `Hardware` before 1.9, attached devices since.
    pub(crate) fn drives_in_hardware(self) -> bool {
        self < Self::V1_9
    }

    /// Disks in `HardDiskAttachments` beside `Hardware` before 1.7.
    pub(crate) fn disk_attachments(self) -> bool {
        self < Self::V1_7
    }

    /// The remote display's port and address are attributes before 1.11, properties since.
    pub(crate) fn remote_display_attributes(self) -> bool {
        self < Self::V1_11
    }

    /// What depends on the processor's architecture is in `Platform` from 1.20 on, and `Firmware`
    /// holds what was in `BIOS`.
    pub(crate) fn has_platform(self) -> bool {
        self >= Self::V1_20
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// The namespace of products up to 5.0, accepted and kept.
pub const NAMESPACE_OLD: &str = "http://www.innotek.de/VirtualBox-settings";
/// The namespace of products from 5.1 on, also for older format versions.
pub const NAMESPACE: &str = "http://www.virtualbox.org/";

/// The platform this program runs on, as the version attribute names it.
pub fn host_platform() -> &'static str {
    match std::env::consts::OS {
        "macos" => "macosx",
        other => other,
    }
}
