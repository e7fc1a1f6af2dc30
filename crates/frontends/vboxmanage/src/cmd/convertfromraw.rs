//! `convertfromraw`, formerly `convertdd`: a raw image, from a file or standard input, becomes an
//! image of another format. As in VirtualBox this needs no service: nothing is registered.

use super::{Command, form};
use crate::args::{Arg, Args, Given, Opt, parse_integer, value};
use crate::cx::{Cx, absolute};
use crate::error::{Failure, Result};
use crate::media;
use api::types::MediumVariant;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use storage::{CreateParams, Layout, Variant};

pub const COMMAND: Command = Command {
    name: "convertfromraw",
    aliases: &["convertdd"],
    usage,
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage convertfromraw <inputfile> <outputfile> [--format=VDI | VMDK | VHD]
      [--uuid=uuid] [--variant=Standard,Fixed,Split2G,Stream,ESX]

  VBoxManage convertfromraw stdin <outputfile> <bytes> [--format=VDI | VMDK | VHD]
      [--uuid=uuid] [--variant=Standard,Fixed,Split2G,Stream,ESX]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--format", "-o"]),
    value(&["--variant", "-m"]),
    value(&["--uuid", "-u"]),
    // Of 3.x.
    value(&["--type"]),
];

#[derive(Debug)]
struct Wanted {
    source: String,
    target: String,
    /// Of the data on standard input.
    bytes: Option<u64>,
    format: String,
    variant: (Variant, Layout),
    uuid: Option<uuid::Uuid>,
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut words = Vec::new();
    let mut wanted = Wanted {
        source: String::new(),
        target: String::new(),
        bytes: None,
        format: "VDI".to_owned(),
        variant: (Variant::Dynamic, Layout::Default),
        uuid: None,
    };
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--format" => wanted.format = given.value,
                "--variant" => wanted.variant = variant(&given)?,
                "--uuid" => {
                    let uuid = given.value.trim_matches(['{', '}']).parse();
                    wanted.uuid = Some(uuid.map_err(|_| given.invalid())?);
                }
                _ => {}
            },
            Arg::Word(word) => words.push(word),
        }
    }
    let stdin = words.first().is_some_and(|w| w == "stdin");
    match <[String; 2]>::try_from(words) {
        Ok([source, target]) if !stdin => {
            wanted.source = source;
            wanted.target = target;
        }
        Err(words) if stdin && words.len() == 3 => {
            let size = words.get(2).map(String::as_str).unwrap_or_default();
            let bytes = parse_integer::<u64>(size).filter(|b| *b > 0);
            wanted.bytes =
                Some(bytes.ok_or_else(|| Failure::syntax(format!("Invalid size '{size}'")))?);
            wanted.target = words.get(1).cloned().unwrap_or_default();
        }
        _ => return Err(Failure::syntax("Incorrect number of parameters")),
    }
    Ok(wanted)
}

fn variant(given: &Given) -> Result<(Variant, Layout)> {
    let (mut variant, mut layout) = (Variant::Dynamic, Layout::Default);
    for word in media::variants(&given.value)? {
        match word {
            MediumVariant::Standard => {}
            MediumVariant::Fixed => variant = Variant::Fixed,
            MediumVariant::VmdkSplit2G => layout = Layout::Split2G,
            MediumVariant::VmdkStreamOptimized => layout = Layout::StreamOptimized,
            // There are no others for these servers.
            MediumVariant::VmdkESX => (variant, layout) = (Variant::Fixed, Layout::Esx),
            _ => {
                return Err(Failure::message(format!(
                    "The medium variant '{}' is not available in this version of Oxbox yet",
                    given.value
                )));
            }
        }
    }
    Ok((variant, layout))
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    match wanted.bytes {
        Some(bytes) => convert(cx, &wanted, &mut std::io::stdin().lock(), bytes),
        None => {
            let source = &wanted.source;
            let opened = File::open(source).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (bytes, mut file) = opened
                .map_err(|e| Failure::message(format!("Cannot open file \"{source}\": {e}")))?;
            convert(cx, &wanted, &mut file, bytes)
        }
    }
}

fn convert(cx: &mut Cx<'_>, wanted: &Wanted, from: &mut dyn Read, bytes: u64) -> Result {
    let target = &wanted.target;
    let failed = |e: &dyn std::fmt::Display| {
        Failure::message(format!("Cannot create the disk image \"{target}\": {e}"))
    };
    let format = storage::format_by_id(&wanted.format)
        .ok_or_else(|| failed(&format_args!("unknown format '{}'", wanted.format)))?;
    let source = if wanted.bytes.is_some() {
        "stdin"
    } else {
        &wanted.source
    };
    writeln!(
        cx.out,
        "Converting from raw image file=\"{source}\" to file=\"{target}\"..."
    )?;
    let kind = match wanted.variant.0 {
        Variant::Fixed => "fixed",
        _ => "dynamic",
    };
    writeln!(
        cx.out,
        "Creating {kind} image with size {bytes} bytes ({}MB)...",
        bytes.div_ceil(1 << 20)
    )?;
    cx.out.flush()?;
    let path = absolute(target)?;
    if let Some(folder) = Path::new(&path).parent() {
        std::fs::create_dir_all(folder).map_err(|e| failed(&e))?;
    }
    // Disks have whole sectors; what a last one lacks is zero.
    let size = bytes
        .checked_next_multiple_of(storage::SECTOR)
        .ok_or_else(|| failed(&"it would be too large"))?;
    let mut params = CreateParams::new(size, wanted.variant.0);
    params.layout = wanted.variant.1;
    if let Some(uuid) = wanted.uuid {
        params.uuid = uuid;
    }
    // VirtualBox shows no progress here, so that scripts see two lines and no more.
    let mut image = storage::convert_from_reader(
        &mut from.take(bytes),
        Path::new(&path),
        format,
        &params,
        &mut storage::Progress::none(),
    )
    .map_err(|e| failed(&format_args!("{e} ({})", e.status())))?;
    image.flush().map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn a_file_or_standard_input_with_its_size() {
        let wanted = parsed(&["a.img", "b.vdi"]).expect("known");
        assert_eq!((wanted.format.as_str(), wanted.bytes), ("VDI", None));
        let wanted = parsed(&["stdin", "b.vmdk", "20971520", "--format", "VMDK"]).expect("known");
        assert_eq!(
            (wanted.target.as_str(), wanted.bytes),
            ("b.vmdk", Some(20_971_520))
        );
        for wrong in [
            &["a"][..],
            &["a", "b", "c"],
            &["stdin", "b"],
            &["stdin", "b", "0"],
            &["stdin", "b", "x"],
            &["a", "b", "--uuid", "x"],
        ] {
            assert!(
                matches!(parsed(wrong), Err(Failure::Syntax(_))),
                "{wrong:?}"
            );
        }
    }

    fn converted(source: &Path, target: &Path, options: &[&str]) -> (Result, String) {
        let paths = [source, target].map(|p| p.to_str().expect("UTF-8").to_owned());
        let line = paths
            .into_iter()
            .chain(options.iter().map(|s| (*s).to_owned()));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let result = run(&mut Cx::new(&mut out, &mut err), &mut Args::new(line));
        assert!(err.is_empty());
        (result, String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn a_file_of_any_name_becomes_an_image_with_the_same_bytes() {
        let folder = tempfile::tempdir().expect("folder");
        let (source, target) = (folder.path().join("disk"), folder.path().join("x/disk.vdi"));
        let mut data = vec![0_u8; (2 << 20) + 700];
        data[5] = 1;
        data[(1 << 20) + 9] = 2;
        data[(2 << 20) + 699] = 3;
        std::fs::write(&source, &data).expect("source");
        let uuid = "0b3a5d0e-7e54-4b6b-9d3d-0123456789ab";
        let (result, out) = converted(&source, &target, &["--format", "VDI", "--uuid", uuid]);
        result.expect("converted");
        assert_eq!(
            out,
            format!(
                "Converting from raw image file=\"{}\" to file=\"{}\"...\nCreating dynamic image with size 2097852 bytes (3MB)...\n",
                source.display(),
                target.display()
            )
        );
        let image = storage::Container::open(&target, storage::OpenMode::ReadOnly).expect("image");
        data.resize((2 << 20) + 1024, 0);
        assert_eq!(image.size(), data.len() as u64);
        let mut back = vec![1; data.len()];
        image.read_at(0, &mut back).expect("read");
        assert!(back == data);
        drop(image);
        let info = storage::media_info(&target).expect("info");
        assert_eq!(info.uuid.map(|u| u.to_string()).as_deref(), Some(uuid));
        // A second time there is something in the way.
        let (again, _) = converted(&source, &target, &[]);
        assert!(matches!(again, Err(Failure::Message(_))));
        let (missing, _) = converted(&folder.path().join("none"), &target, &[]);
        assert!(matches!(missing, Err(Failure::Message(_))));
    }
}
