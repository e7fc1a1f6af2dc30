//! `createrawvmdk`: a VMDK that stands for a disk of the host.

use super::switch;
use crate::args::{Arg, Args, Opt, value};
use crate::cx::{Cx, absolute};
use crate::error::{Failure, Result};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use uuid::Uuid;

pub const OPTIONS: &[Opt] = &[
    value(&["--filename"]),
    value(&["--rawdisk"]),
    value(&["--partitions"]),
    value(&["--mbr"]),
    switch(&["--relative"]),
];

/// Single partitions wait for what reads partition tables.
pub const MISSING: &[&str] = &["--partitions", "--mbr", "--relative"];

/// Heads and sectors of the geometry that disks of 8 GB and more show.
const HEADS: u64 = 16;
const SECTORS: u64 = 63;
const MAX_CYLINDERS: u64 = 16383;

pub fn create(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let (mut file, mut disk) = (None, None);
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--filename" => file = Some(given.value),
                "--rawdisk" => disk = Some(given.value),
                _ => {
                    return Err(Failure::message(format!(
                        "The option '{}' of createrawvmdk is not available in this version of Oxbox yet",
                        given.typed
                    )));
                }
            },
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        }
    }
    let file = file.ok_or_else(|| Failure::syntax("Mandatory parameter -filename missing"))?;
    let disk = disk.ok_or_else(|| Failure::syntax("Mandatory parameter -rawdisk missing"))?;
    let (file, disk) = (absolute(&file)?, absolute(&disk)?);
    let size = File::open(&disk)
        .and_then(|mut d| d.seek(SeekFrom::End(0)))
        .map_err(|e| Failure::message(format!("Cannot open the raw disk '{disk}': {e}")))?;
    if size == 0 || size % storage::SECTOR != 0 || disk.contains(['"', '\n']) {
        let text = format!("Cannot use the raw disk '{disk}': it has {size} bytes");
        return Err(Failure::message(text));
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&file)
        .and_then(|mut f| {
            f.write_all(descriptor(&disk, size, Uuid::new_v4()).as_bytes())?;
            f.sync_all()
        });
    written.map_err(|e| {
        Failure::message(format!("Cannot create the raw disk VMDK \"{file}\": {e}"))
    })?;
    writeln!(
        cx.out,
        "RAW host disk access VMDK file {file} created successfully."
    )?;
    Ok(())
}

/// VMware's descriptor of a whole disk (Virtual Disk Format 5.0, "fullDevice").
fn descriptor(disk: &str, size: u64, id: Uuid) -> String {
    let sectors = size / storage::SECTOR;
    let cylinders = (sectors / (HEADS * SECTORS)).clamp(1, MAX_CYLINDERS);
    let (zero, modification) = (Uuid::nil(), Uuid::new_v4());
    let cid = modification.as_fields().0;
    format!(
        "# Disk DescriptorFile
version=1
CID={cid:08x}
parentCID=ffffffff
createType=\"fullDevice\"

# Extent description
RW {sectors} FLAT \"{disk}\" 0

# The disk Data Base
#DDB

ddb.virtualHWVersion = \"4\"
ddb.adapterType=\"ide\"
ddb.geometry.cylinders=\"{cylinders}\"
ddb.geometry.heads=\"{HEADS}\"
ddb.geometry.sectors=\"{SECTORS}\"
ddb.uuid.image=\"{id}\"
ddb.uuid.modification=\"{modification}\"
ddb.uuid.parent=\"{zero}\"
ddb.uuid.parentmodification=\"{zero}\"
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_gets_a_descriptor() {
        let folder = tempfile::tempdir().expect("folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        std::fs::write(path("disk"), vec![0; 3 << 20]).expect("disk");
        let run = |line: &[&str]| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let line = line.iter().map(|s| (*s).to_owned());
            let result = create(&mut Cx::new(&mut out, &mut err), &mut Args::new(line));
            (result, String::from_utf8(out).expect("UTF-8"))
        };
        let (result, out) = run(&["-filename", &path("d.vmdk"), "-rawdisk", &path("disk")]);
        result.expect("made");
        let said = format!(
            "RAW host disk access VMDK file {} created successfully.\n",
            path("d.vmdk")
        );
        assert_eq!(out, said);
        let text = std::fs::read_to_string(path("d.vmdk")).expect("text");
        assert!(text.contains("createType=\"fullDevice\"\n"));
        assert!(text.contains(&format!("RW 6144 FLAT \"{}\" 0\n", path("disk"))));
        // The format's own reader knows it for what it is.
        let info = storage::media_info(std::path::Path::new(&path("d.vmdk")));
        match info {
            Ok(info) => assert_eq!(
                (info.layout, info.size),
                (storage::Layout::RawDisk, 3 << 20)
            ),
            // It opens devices only.
            Err(e) => assert!(!matches!(e, storage::Error::NotFound { .. }), "{e}"),
        }
        // Not a second time, not of nothing, and not of parts.
        let again = run(&["-filename", &path("d.vmdk"), "-rawdisk", &path("disk")]);
        assert!(matches!(again.0, Err(Failure::Message(_))));
        let none = run(&["-filename", &path("e.vmdk"), "-rawdisk", &path("none")]);
        assert!(matches!(none.0, Err(Failure::Message(_))));
        let part = run(&["-filename", "e", "-rawdisk", "d", "-partitions", "1"]);
        assert!(matches!(part.0, Err(Failure::Message(_))));
        assert!(matches!(run(&["-rawdisk", "d"]).0, Err(Failure::Syntax(_))));
    }
}
