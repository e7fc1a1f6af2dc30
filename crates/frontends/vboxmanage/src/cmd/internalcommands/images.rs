//! UUIDs of image files, what their headers say, and copies in other formats.

use crate::args::{Arg, Args, Opt};
use crate::cx::Cx;
use crate::error::{Failure, Result};
use std::path::Path;
use storage::{Geometry, OpenMode, ParentLink};
use uuid::Uuid;

fn opened(file: &str, mode: OpenMode) -> Result<Box<dyn storage::Image>> {
    storage::open_image(Path::new(file), mode).map_err(|e| cannot_open(file, &e))
}

fn cannot_open(file: &str, error: &storage::Error) -> Failure {
    Failure::message(format!(
        "Cannot open the image \"{file}\": {error} ({})",
        error.status()
    ))
}

fn uuid_of(text: &str) -> Result<Uuid> {
    let bare = text.trim_start_matches('{').trim_end_matches('}');
    Uuid::try_parse(bare)
        .ok()
        .filter(|_| crate::media::is_uuid(text))
        .ok_or_else(|| Failure::syntax(format!("Invalid UUID parameter: '{text}'")))
}

/// `sethduuid FILE [UUID]`.
pub fn set_uuid(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let file = args.required("file name")?;
    let id = match args.take() {
        Some(text) => uuid_of(&text)?,
        None => Uuid::new_v4(),
    };
    args.end()?;
    let mut image = opened(&file, OpenMode::ReadWrite)?;
    let mut meta = image.meta();
    meta.uuid = Some(id);
    image
        .set_meta(&meta)
        .and_then(|()| image.flush())
        .map_err(|e| Failure::message(format!("Cannot set a new UUID: {e} ({})", e.status())))?;
    writeln!(cx.out, "UUID changed to: {id}")?;
    Ok(())
}

/// `sethdparentuuid FILE UUID`: any state of that parent will do.
pub fn set_parent(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let file = args.required("file name")?;
    let id = uuid_of(&args.required("UUID")?)?;
    args.end()?;
    // That it opens is told apart from what cannot be set.
    drop(opened(&file, OpenMode::ReadOnly)?);
    storage::relink(Path::new(&file), ParentLink::new(id, Uuid::nil())).map_err(|e| {
        Failure::message(format!(
            "Cannot set a new parent UUID: {e} ({})",
            e.status()
        ))
    })?;
    writeln!(cx.out, "UUID changed to: {id}")?;
    Ok(())
}

/// `dumphdinfo FILE`.
pub fn dump(cx: &mut Cx<'_>, args: &mut Args) -> Result {
    let file = args.required("file name")?;
    args.end()?;
    let image = opened(&file, OpenMode::ReadOnly)?;
    let (meta, report) = (image.meta(), image.check());
    writeln!(cx.out, "--- Dumping VD Disk, Images=1")?;
    writeln!(
        cx.out,
        "Dumping VD image \"{file}\" (Backend={})",
        image.format()
    )?;
    let shape = |g: Geometry| format!("{}/{}/{}", g.cylinders, g.heads, g.sectors);
    writeln!(
        cx.out,
        "Header: Geometry PCHS={} LCHS={} cbSector={} cSectors={}",
        shape(meta.physical),
        shape(meta.logical),
        storage::SECTOR,
        image.size() / storage::SECTOR
    )?;
    let parent = meta
        .parent
        .unwrap_or(ParentLink::new(Uuid::nil(), Uuid::nil()));
    for (name, id) in [
        ("uuidCreation", meta.uuid.unwrap_or_default()),
        ("uuidModification", meta.modification.unwrap_or_default()),
        ("uuidParent", parent.uuid),
        ("uuidParentModification", parent.modification),
    ] {
        writeln!(cx.out, "Header: {name}={{{id}}}")?;
    }
    writeln!(
        cx.out,
        "Image:  variant={:?} layout={:?} cbDisk={} cbBlock={} cbFile={}",
        image.variant(),
        image.layout(),
        image.size(),
        image.block_size(),
        image.size_on_disk().unwrap_or_default()
    )?;
    match report {
        Ok(report) => {
            writeln!(cx.out, "Image:  cBlocksAllocated={}", report.allocated)?;
            for note in report.notes {
                writeln!(cx.out, "Note:   {note}")?;
            }
            for error in &report.errors {
                writeln!(cx.out, "Error:  {error}")?;
            }
        }
        Err(e) => writeln!(cx.out, "Error:  {e}")?,
    }
    Ok(())
}

/// `converttoraw` and `converthd`.
pub fn convert(cx: &mut Cx<'_>, args: &mut Args, table: &[Opt], to: Option<&str>) -> Result {
    let (mut words, mut source, mut target) = (Vec::new(), None, to.map(str::to_owned));
    while let Some(arg) = args.next(table)? {
        match arg {
            Arg::Opt(_, given) if given.name == "--dstformat" => target = Some(given.value),
            Arg::Opt(_, given) => source = Some(given.value),
            Arg::Word(word) => words.push(word),
        }
    }
    let [from, into] = words.as_slice() else {
        return Err(Failure::syntax("Mandatory filename parameters missing"));
    };
    let wanted = target.as_deref().unwrap_or("VDI");
    let format = storage::format_by_id(wanted)
        .ok_or_else(|| Failure::syntax(format!("Invalid format '{wanted}'")))?;
    let image = storage::Container::open(Path::new(from), OpenMode::ReadOnly)
        .map_err(|e| cannot_open(from, &e))?;
    if let (Some(expected), Some(found)) = (source, image.images().first())
        && !found.format().eq_ignore_ascii_case(&expected)
    {
        return Err(Failure::message(format!(
            "Cannot open the image \"{from}\": it is not a {expected} image (VERR_VD_INVALID_TYPE)"
        )));
    }
    let (size, to) = (image.size(), if to.is_some() { " to raw" } else { "" });
    writeln!(
        cx.out,
        "Converting image \"{from}\" with size {size} bytes ({}MB){to}...",
        size.div_ceil(1 << 20)
    )?;
    cx.out.flush()?;
    let variant = match format.id() {
        "RAW" => storage::Variant::Fixed,
        _ => storage::Variant::Dynamic,
    };
    let params = storage::CreateParams::new(size, variant);
    storage::clone_to_new(
        &image,
        Path::new(into),
        format,
        &params,
        &mut storage::Progress::none(),
    )
    .map(drop)
    .map_err(|e| {
        Failure::message(format!(
            "Cannot convert the image to \"{into}\": {e} ({})",
            e.status()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::{CreateParams, Variant};

    fn said(line: &[&str]) -> (Result, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let line = line.iter().map(|s| (*s).to_owned());
        let result = super::super::run(&mut Cx::new(&mut out, &mut err), &mut Args::new(line));
        (result, String::from_utf8(out).expect("UTF-8"))
    }

    fn made(path: &Path, format: &str, size: u64) {
        let params = CreateParams::new(size, Variant::Dynamic);
        let mut nobody = storage::Progress::none();
        let created = storage::create_image(path, format, &params, &mut nobody);
        let mut image = created.expect("created");
        image.write_at(0, &[7; 512]).expect("written");
        image.flush().expect("flushed");
    }

    #[test]
    fn uuids_are_changed() {
        const NEW: &str = "0b3a5d0e-7e54-4b6b-9d3d-0123456789ab";
        let folder = tempfile::tempdir().expect("folder");
        for format in ["VDI", "VMDK", "VHD"] {
            let path = folder.path().join(format);
            made(&path, format, 4 << 20);
            let file = path.to_str().expect("UTF-8");
            let (result, out) = said(&["sethduuid", file, NEW]);
            result.expect("changed");
            assert_eq!(out, format!("UUID changed to: {NEW}\n"));
            let info = storage::media_info(&path).expect("info");
            assert_eq!(info.uuid.map(|u| u.to_string()).as_deref(), Some(NEW));
            let (result, out) = said(&["sethduuid", file]);
            result.expect("changed");
            let id = storage::media_info(&path).expect("info").uuid.expect("one");
            assert_eq!(out, format!("UUID changed to: {id}\n"));
            assert_ne!(id.to_string(), NEW);
            // A base image has no parent to change.
            assert!(matches!(
                said(&["sethdparentuuid", file, NEW]).0,
                Err(Failure::Message(_))
            ));
        }
        assert!(matches!(
            said(&["sethduuid", "x", "y"]).0,
            Err(Failure::Syntax(_))
        ));
        assert!(matches!(
            said(&["sethduuid", "/none"]).0,
            Err(Failure::Message(_))
        ));
        assert!(matches!(said(&["odd", "y"]).0, Err(Failure::Syntax(_))));
        assert!(matches!(
            said(&["loadmap", "y"]).0,
            Err(Failure::Message(_))
        ));
    }

    #[test]
    fn a_child_gets_another_parent() {
        const NEW: &str = "0b3a5d0e-7e54-4b6b-9d3d-0123456789ab";
        let folder = tempfile::tempdir().expect("folder");
        let (base, child) = (
            folder.path().join("base.vdi"),
            folder.path().join("child.vdi"),
        );
        made(&base, "VDI", 4 << 20);
        let vdi = storage::child_format(&base).expect("VDI");
        let made = storage::create_child(&child, vdi, Uuid::new_v4(), &base);
        made.and_then(|mut c| c.flush()).expect("child");
        let file = child.to_str().expect("UTF-8");
        let (result, out) = said(&["sethdparentuuid", file, NEW]);
        result.expect("changed");
        assert_eq!(out, format!("UUID changed to: {NEW}\n"));
        let parent = storage::media_info(&child)
            .expect("info")
            .parent
            .expect("one");
        assert_eq!(parent.uuid.to_string(), NEW);
        let (result, out) = said(&["dumphdinfo", file]);
        result.expect("dumped");
        assert!(
            out.starts_with("--- Dumping VD Disk, Images=1\nDumping VD image "),
            "{out}"
        );
        assert!(
            out.contains(&format!("Header: uuidParent={{{NEW}}}\n")),
            "{out}"
        );
    }

    #[test]
    fn images_are_converted() {
        let folder = tempfile::tempdir().expect("folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        made(Path::new(&path("a.vdi")), "VDI", 2 << 20);
        let (result, out) = said(&["converttoraw", &path("a.vdi"), &path("a.img")]);
        result.expect("converted");
        assert_eq!(
            out,
            format!(
                "Converting image \"{}\" with size 2097152 bytes (2MB) to raw...\n",
                path("a.vdi")
            )
        );
        let raw = std::fs::read(path("a.img")).expect("raw");
        assert!(
            raw.len() == 2 << 20 && raw[..512] == [7; 512] && raw[512..].iter().all(|b| *b == 0)
        );
        let line = [
            "converthd",
            "-srcformat",
            "VDI",
            "-dstformat",
            "VHD",
            &path("a.vdi"),
            &path("a.vhd"),
        ];
        said(&line).0.expect("converted");
        assert_eq!(
            storage::media_info(Path::new(&path("a.vhd")))
                .expect("info")
                .format,
            "VHD"
        );
        let wrong = [
            "converthd",
            "-srcformat",
            "VMDK",
            &path("a.vdi"),
            &path("b.vhd"),
        ];
        assert!(matches!(said(&wrong).0, Err(Failure::Message(_))));
        assert!(matches!(
            said(&["converthd", "a"]).0,
            Err(Failure::Syntax(_))
        ));
    }
}
