//! `clonemedium`, formerly `clonehd`.

use super::{Command, form};
use crate::args::{Arg, Args, Opt, flag, value};
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use crate::{media, progress};
use api::types::*;

pub const COMMAND: Command = Command {
    name: "clonemedium",
    aliases: &["clonehd", "clonevdi"],
    usage,
    forms: || vec![form("", OPTIONS)],
    run: Some(run),
};

fn usage() -> String {
    "  VBoxManage clonemedium [disk | dvd | floppy] <uuid | source-medium> <uuid | target-medium>
      [--existing] [--format=VDI | VMDK | VHD | RAW | other]
      [--variant=Standard,Fixed,Split2G,Stream,ESX]\n"
        .to_owned()
}

const OPTIONS: &[Opt] = &[
    value(&["--format", "-o"]),
    value(&["--variant", "-m"]),
    flag(&["--existing", "-E"]),
    // Of 4.0.
    value(&["--type"]),
];

#[derive(Debug)]
struct Wanted {
    source: String,
    target: String,
    format: Option<String>,
    variant: Vec<MediumVariant>,
    existing: bool,
}

fn parse(args: &mut Args) -> Result<Wanted> {
    let mut words = Vec::new();
    let (mut format, mut variant, mut existing) = (None, vec![MediumVariant::Standard], false);
    while let Some(arg) = args.next(OPTIONS)? {
        match arg {
            Arg::Opt(_, given) => match given.name {
                "--format" => format = Some(given.value),
                "--variant" => variant = media::variants(&given.value)?,
                "--existing" => existing = true,
                _ => {}
            },
            Arg::Word(word) => words.push(word),
        }
    }
    let mut words = words.into_iter();
    let (source, target) = match (words.next(), words.next()) {
        (Some(source), Some(target)) => (source, target),
        (Some(_), None) => {
            return Err(Failure::syntax("Mandatory target medium parameter missing"));
        }
        _ => return Err(Failure::syntax("Mandatory source medium parameter missing")),
    };
    if let Some(word) = words.next() {
        return Err(Failure::syntax(format!("Invalid parameter '{word}'")));
    }
    if existing && (format.is_some() || variant != [MediumVariant::Standard]) {
        let text = "Specified options which cannot be used with --existing";
        return Err(Failure::syntax(text));
    }
    Ok(Wanted {
        source,
        target,
        format,
        variant,
        existing,
    })
}

fn run(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let kind = media::image_kind(args);
    let wanted = parse(args)?;
    let source = media::open_any(cx, &wanted.source, kind)?;
    let cloned = clone(cx, &wanted, &source);
    cloned.and(source.forget())
}

fn clone(cx: &mut Cx<'_>, wanted: &Wanted, source: &media::Opened) -> Result {
    let kind = source.medium.device_type()?;
    let known_target = if wanted.existing {
        Some(media::open(
            cx,
            &wanted.target,
            kind,
            AccessMode::ReadWrite,
        )?)
    } else {
        None
    };
    let target = match &known_target {
        Some(target) => target.medium.clone(),
        None => {
            let format = match &wanted.format {
                Some(format) => format.clone(),
                None if kind != DeviceType::HardDisk => "RAW".to_owned(),
                None => source.medium.format()?,
            };
            cx.vbox()?
                .create_medium(
                    &format,
                    &absolute(&wanted.target)?,
                    AccessMode::ReadWrite,
                    kind,
                )
                .during("CreateMedium(bstrFormat.raw(), Bstr(filename).raw(), AccessMode_ReadWrite, DeviceType, pMedium.asOutParam())")?
        }
    };
    let cloned = source
        .medium
        .clone_to(&target, &wanted.variant, None)
        .during(
            "CloneTo(pDstMedium, ComSafeArrayAsInParam(l_variants), NULL, pProgress.asOutParam())",
        )
        .and_then(|p| progress::show(cx, &p, "Failed to clone medium"));
    if cloned.is_ok() {
        writeln!(
            cx.out,
            "Clone medium created in format '{}'. UUID: {}",
            target.format()?,
            target.id()?
        )?;
    }
    let forgotten = match known_target {
        Some(target) => target.forget(),
        None => target.close().during("Close()"),
    };
    cloned.and(forgotten)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Wanted> {
        parse(&mut Args::new(line.iter().map(|s| (*s).to_owned())))
    }

    #[test]
    fn source_and_target() {
        let wanted = parsed(&["a.vdi", "b.img", "--format", "RAW"]).expect("known");
        assert_eq!(
            (wanted.source.as_str(), wanted.target.as_str()),
            ("a.vdi", "b.img")
        );
        assert_eq!(wanted.format.as_deref(), Some("RAW"));
        assert!(parsed(&["a.vdi"]).is_err());
        assert!(parsed(&["a", "b", "c"]).is_err());
        assert!(parsed(&["a", "b", "--existing", "--format", "RAW"]).is_err());
    }
}
