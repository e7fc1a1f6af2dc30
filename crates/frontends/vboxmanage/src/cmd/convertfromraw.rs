//! `convertfromraw`, formerly `convertdd`: a raw image, from a file or standard input, becomes an
//! image of another format. The service does the work, as for every other medium; what comes from
//! standard input is kept in a file beside the new image until then.

use super::Command;
use crate::args::{Arg, Args, Opt, parse_integer, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use crate::media;
use api::types::*;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub const COMMAND: Command = Command {
    name: "convertfromraw",
    aliases: &["convertdd"],
    usage,
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

/// Bytes read from standard input at a time; runs of zeros this long are left out of the file.
const CHUNK: usize = 64 * 1024;

#[derive(Debug)]
struct Wanted {
    source: String,
    target: String,
    /// Of the data on standard input.
    bytes: Option<u64>,
    format: String,
    variant: Vec<MediumVariant>,
    uuid: Option<String>,
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut words = Vec::new();
    let mut wanted = Wanted {
        source: String::new(),
        target: String::new(),
        bytes: None,
        format: "VDI".to_owned(),
        variant: vec![MediumVariant::Standard],
        uuid: None,
    };
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--format" => wanted.format = given.value,
                "--variant" => wanted.variant = media::variants(&given.value)?,
                "--uuid" if !media::is_uuid(&given.value) => {
                    return Err(Failure::syntax(format!("Invalid UUID '{}'", given.value)));
                }
                "--uuid" => wanted.uuid = Some(given.value),
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

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let wanted = parse(args)?;
    let target = absolute(&wanted.target)?;
    // Nothing is read for an image that cannot be made.
    if Path::new(&target).exists() {
        return Err(Failure::message(format!(
            "Cannot create the disk image \"{}\": VERR_ALREADY_EXISTS",
            wanted.target
        )));
    }
    let Some(bytes) = wanted.bytes else {
        let size = std::fs::metadata(&wanted.source)
            .map_err(|e| {
                let source = &wanted.source;
                Failure::message(format!("Cannot open file \"{source}\": {e}"))
            })?
            .len();
        writeln!(
            cx.out,
            "Converting from raw image file=\"{}\" to file=\"{}\"...",
            wanted.source, wanted.target
        )?;
        return convert(cx, &wanted, &absolute(&wanted.source)?, &target, size);
    };
    writeln!(
        cx.out,
        "Converting from raw image file=\"stdin\" to file=\"{}\"...",
        wanted.target
    )?;
    let kept = Kept::new(&target, bytes)?;
    let source = kept.0.to_string_lossy().into_owned();
    convert(cx, &wanted, &source, &target, bytes)
}

fn convert(cx: &mut Cx<'_>, wanted: &Wanted, source: &str, target: &str, size: u64) -> Result {
    let kind = if wanted.variant.contains(&MediumVariant::Fixed) {
        "fixed"
    } else {
        "dynamic"
    };
    writeln!(
        cx.out,
        "Creating {kind} image with size {size} bytes ({}MB)...",
        size.div_ceil(1 << 20)
    )?;
    cx.out.flush()?;
    let source = media::open(cx, source, DeviceType::HardDisk, AccessMode::ReadOnly)?;
    let converted = convert_opened(cx, wanted, &source, target);
    let forgotten = source.forget();
    converted.and(forgotten)
}

fn convert_opened(
    cx: &mut Cx<'_>,
    wanted: &Wanted,
    source: &media::Opened,
    target: &str,
) -> Result {
    let medium = cx
        .vbox()?
        .create_medium(
            &wanted.format,
            target,
            AccessMode::ReadWrite,
            DeviceType::HardDisk,
        )
        .during("CreateMedium(bstrFormat.raw(), Bstr(filename).raw(), AccessMode_ReadWrite, DeviceType, pMedium.asOutParam())")?;
    let converted = source
        .medium
        .clone_to_base(&medium, &wanted.variant)
        .during(
            "CloneToBase(pDstMedium, ComSafeArrayAsInParam(l_variants), pProgress.asOutParam())",
        )
        // VirtualBox shows no progress here, so that scripts see two lines and no more.
        .and_then(|p| {
            p.finish().wanted(
                "Cannot write the disk image",
                "progress->WaitForCompletion(-1)",
            )
        })
        .and_then(|()| match &wanted.uuid {
            Some(uuid) => medium.set_ids(true, uuid, false, "").wanted(
                "Cannot set the UUID of the disk image",
                "SetIds(TRUE, uuid)",
            ),
            None => Ok(()),
        });
    let closed = medium.close().during("Close()");
    converted.and(closed)
}

/// What came from standard input, in a file that goes away with this value.
struct Kept(PathBuf);

impl Kept {
    fn new(target: &str, bytes: u64) -> Result<Self> {
        let path = PathBuf::from(format!("{target}.{}.stdin", std::process::id()));
        let failed = |e: std::io::Error| {
            Failure::message(format!(
                "Cannot keep the data in \"{}\": {e}",
                path.display()
            ))
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file = File::create_new(&path).map_err(failed)?;
        let kept = Self(path.clone());
        copy_sparse(&mut std::io::stdin().lock(), &mut file, bytes).map_err(failed)?;
        Ok(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // What is left then is a file named for what it is.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Copies up to `bytes` bytes, leaves holes for zeros, and makes the file that long.
fn copy_sparse(from: &mut dyn Read, to: &mut File, bytes: u64) -> std::io::Result<()> {
    let mut from = from.take(bytes);
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut filled = 0;
        while let Some(rest) = chunk.get_mut(filled..).filter(|r| !r.is_empty()) {
            match from.read(rest) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let Some(data) = chunk.get(..filled).filter(|d| !d.is_empty()) else {
            break;
        };
        if data.iter().all(|b| *b == 0) {
            let step = i64::try_from(filled).unwrap_or(i64::MAX);
            to.seek(SeekFrom::Current(step))?;
        } else {
            to.write_all(data)?;
        }
    }
    to.set_len(bytes)
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

    #[test]
    fn zeros_become_holes_and_the_size_is_as_given() {
        let mut data = vec![0_u8; 3 * CHUNK];
        data[CHUNK + 5] = 7;
        data.extend([1, 2, 3]);
        let mut file = tempfile::tempfile().expect("file");
        copy_sparse(&mut data.as_slice(), &mut file, 1 << 20).expect("copied");
        let mut back = Vec::new();
        file.seek(SeekFrom::Start(0)).expect("seek");
        file.read_to_end(&mut back).expect("read");
        data.resize(1 << 20, 0);
        assert!(back == data);
        let mut file = tempfile::tempfile().expect("file");
        copy_sparse(&mut [9_u8; 100].as_slice(), &mut file, 10).expect("copied");
        assert_eq!(file.metadata().expect("size").len(), 10);
    }
}
