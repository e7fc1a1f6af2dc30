//! OVF packages: virtual machines as files that other products read and write (DMTF DSP0243), as
//! a folder with a descriptor (`NAME.ovf`) or as one tar archive (`NAME.ova`).
//!
//! [`Package`] opens either kind, checks digests and hands out files; [`Envelope`] is what a
//! descriptor says, read ([`Envelope::parse`]) and written ([`Envelope::to_xml`]) in versions 0.9,
//! 1.0 and 2.0; [`MachineExtension`] carries a whole VirtualBox machine through a descriptor.
//!
//! A package is hostile until shown otherwise: nothing in it names a file outside of it, nothing is
//! taken into memory that its own size does not justify, and nothing here writes to a path that a
//! package chose.

mod archive;
mod error;
mod machine;
mod manifest;
mod model;
mod os;
mod package;
mod read;
mod write;

pub use archive::{Content, write_archive};
pub use error::{Error, Result};
pub use machine::MachineExtension;
pub use manifest::{Algorithm, Digest, Hasher, Manifest, digest_file};
pub use model::{
    Disk, DiskFormat, Envelope, File, Item, Network, OperatingSystem, Product, ResourceType,
    Version, VirtualSystem,
};
pub use os::{cim_id, guest_os};
pub use package::{Package, is_plain_name};
