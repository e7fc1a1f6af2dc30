//! `createmedium`, formerly `createhd`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use crate::{media, progress};
use api::types::*;

pub const COMMAND: Command = Command {
    name: "createmedium",
    aliases: &["createhd", "createvdi"],
    usage,
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage createmedium [disk | dvd | floppy] <--filename=filename>
      [--size=megabytes | --sizebyte=bytes] [--diffparent=UUID | filename]
      [--format=VDI | VMDK | VHD] [--variant=Standard,Fixed,Split2G,Stream,ESX,Formatted,RawDisk]
      [--property=name=value]...\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--filename", "-f"]),
    value(&["--diffparent", "-d"]),
    value(&["--size", "-s"]),
    value(&["--sizebyte", "-S"]),
    value(&["--format", "-o"]),
    value(&["--variant", "-m"]),
    value(&["--property", "-p"]),
    // Of 4.0, where media had a type of their own.
    value(&["--type"]),
    value(&["--comment"]),
];

#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    kind: DeviceType,
    file: String,
    parent: Option<String>,
    size: Option<i64>,
    format: Option<String>,
    variant: Vec<MediumVariant>,
    properties: Vec<(String, String)>,
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut wanted = Wanted {
        kind: media::image_kind(args).unwrap_or(DeviceType::HardDisk),
        file: String::new(),
        parent: None,
        size: None,
        format: None,
        variant: vec![MediumVariant::Standard],
        properties: Vec::new(),
    };
    while let Some(arg) = args.next(OPTIONS)? {
        let given = match arg {
            Arg::Opt(_, given) => given,
            Arg::Word(word) => {
                return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
            }
        };
        match given.name {
            "--filename" => wanted.file = given.value,
            "--diffparent" => wanted.parent = Some(given.value),
            "--size" => wanted.size = Some(given.within(0, i64::MAX >> 20)? << 20),
            "--sizebyte" => wanted.size = Some(given.within(0, i64::MAX)?),
            "--format" => wanted.format = Some(given.value),
            "--variant" => wanted.variant = media::variants(&given.value)?,
            "--property" => match given.value.split_once('=') {
                Some((name, value)) => wanted.properties.push((name.into(), value.into())),
                None => return Err(Failure::syntax("Invalid key value pair: no value.")),
            },
            _ if given.name == "--type" && !given.value.eq_ignore_ascii_case("normal") => {
                return Err(given.invalid());
            }
            _ => {}
        }
    }
    if wanted.file.is_empty() {
        return Err(Failure::syntax("Parameter --filename is required"));
    }
    if wanted.parent.is_some() {
        if wanted.kind != DeviceType::HardDisk {
            return Err(Failure::syntax(
                "Creating a differencing medium is only supported for hard disks",
            ));
        }
        if wanted.size.is_some() {
            return Err(Failure::syntax(
                "Parameter --size is not used with --diffparent",
            ));
        }
        wanted.variant = vec![MediumVariant::Diff];
    } else if wanted.size.is_none_or(|s| s == 0) {
        return Err(Failure::syntax("Parameter --size is required"));
    }
    Ok(wanted)
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let format = wanted.format.as_deref().unwrap_or(match wanted.kind {
        DeviceType::HardDisk => "VDI",
        _ => "RAW",
    });
    let extension = match wanted.kind {
        DeviceType::DVD => "iso",
        DeviceType::Floppy => "img",
        _ if format.eq_ignore_ascii_case("VMDK") => "vmdk",
        _ if format.eq_ignore_ascii_case("VHD") => "vhd",
        _ if format.eq_ignore_ascii_case("RAW") => "img",
        _ => "vdi",
    };
    let mut file = absolute(&wanted.file)?;
    if std::path::Path::new(&file).extension().is_none() {
        file = format!("{file}.{extension}");
    }
    let vbox = cx.vbox()?;
    let parent = match &wanted.parent {
        Some(parent) => Some(media::open(
            cx,
            parent,
            DeviceType::HardDisk,
            AccessMode::ReadWrite,
        )?),
        None => None,
    };
    let medium = vbox
        .create_medium(format, &file, AccessMode::ReadWrite, wanted.kind)
        .during("CreateMedium(bstrFormat.raw(), Bstr(filename).raw(), AccessMode_ReadWrite, DeviceType, pMedium.asOutParam())")?;
    let made = (|| {
        for (name, value) in &wanted.properties {
            medium.set_property(name, value)?;
        }
        let making = match (&parent, wanted.size) {
            (Some(parent), _) => parent
                .medium
                .create_diff_storage(&medium, &wanted.variant)
                .during("CreateDiffStorage(pMedium, ComSafeArrayAsInParam(l_variants), pProgress.asOutParam())")?,
            (None, size) => medium
                .create_base_storage(size.unwrap_or(0), &wanted.variant)
                .during("CreateBaseStorage(size, ComSafeArrayAsInParam(l_variants), pProgress.asOutParam())")?,
        };
        progress::show(cx, &making, "Failed to create medium")
    })();
    if made.is_ok() {
        writeln!(cx.out, "Medium created. UUID: {}", medium.id()?)?;
    }
    // As VirtualBox does it: the file stays, the service knows it again once it is attached.
    let closed = medium.close();
    let forgotten = parent.map_or(Ok(()), media::Opened::forget);
    made.and(closed.during("Close()")).and(forgotten)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn lines_of_packer_and_vagrant() {
        let packer = [
            "--filename",
            "a.vdi",
            "--size",
            "40000",
            "--format",
            "VDI",
            "--variant",
            "Standard",
        ];
        let wanted = parsed(&packer).expect("known");
        assert_eq!(wanted.size, Some(40_000 << 20));
        assert_eq!(wanted.kind, DeviceType::HardDisk);
        let wanted = parsed(&["disk", "--filename", "a", "--sizebyte", "1048576"]).expect("known");
        assert_eq!(wanted.size, Some(1 << 20));
    }

    #[test]
    fn size_or_parent() {
        assert!(parsed(&["--filename", "a"]).is_err());
        assert!(parsed(&["--filename", "a", "--size", "0"]).is_err());
        assert!(parsed(&["--filename", "a", "--size", "9223372036854775807"]).is_err());
        assert!(parsed(&["--size", "1"]).is_err());
        assert!(parsed(&["--filename", "a", "--size", "1", "--diffparent", "b"]).is_err());
        let wanted = parsed(&["--filename", "a", "--diffparent", "b"]).expect("known");
        assert_eq!(wanted.variant, [MediumVariant::Diff]);
        assert!(parsed(&["dvd", "--filename", "a", "--diffparent", "b"]).is_err());
    }
}
