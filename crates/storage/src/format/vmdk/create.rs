//! New VMDK images: the extents first, the descriptor that makes them an image last.

use std::path::Path;
use std::path::PathBuf;

use uuid::Uuid;

use crate::CreateParams;
use crate::Error;
use crate::Layout;
use crate::Meta;
use crate::Progress;
use crate::Result;
use crate::SECTOR;
use crate::Variant;
use crate::host::HostFile;
use crate::host::create_or_remove;

use super::descriptor::Descriptor;
use super::descriptor::geometry_for;
use super::header;
use super::header::Header;
use super::header::MAX_SPARSE;
use super::image::Extent;
use super::image::Home;
use super::image::Kind;
use super::image::VmdkImage;
use super::image::new_cid;
use super::sparse::SparseExtent;

/// Sectors of the room for a descriptor inside an extent.
const DESCRIPTOR: u64 = 20;

/// Sectors of a part of a split image: 2047 MiB.
pub(super) const PART: u64 = 2047 << 11;

pub(super) fn create(
    path: &Path,
    params: &CreateParams,
    progress: &mut Progress<'_>,
) -> Result<VmdkImage> {
    let mut made = Vec::new();
    let image = create_or_remove(path, |file| make(file, params, &mut made, progress));
    if image.is_err() {
        for file in made {
            // The first error is the one to report.
            let _ = std::fs::remove_file(file);
        }
    }
    image
}

fn create_type(path: &Path, params: &CreateParams) -> Result<&'static str> {
    Ok(match (params.variant, params.layout) {
        (Variant::Dynamic | Variant::Differencing, Layout::Default) => "monolithicSparse",
        (Variant::Dynamic | Variant::Differencing, Layout::Split2G) => "twoGbMaxExtentSparse",
        (Variant::Fixed, Layout::Default) => "monolithicFlat",
        (Variant::Fixed, Layout::Split2G) => "twoGbMaxExtentFlat",
        (Variant::Dynamic, Layout::StreamOptimized) => "streamOptimized",
        (Variant::Fixed, Layout::Esx) => "vmfs",
        (variant, layout) => {
            return Err(Error::unsupported(
                path,
                format!("there are no VMDK images of the variant {variant:?} {layout:?}"),
            ));
        }
    })
}

fn make(
    file: HostFile,
    params: &CreateParams,
    made: &mut Vec<PathBuf>,
    progress: &mut Progress<'_>,
) -> Result<VmdkImage> {
    let path = file.path().to_path_buf();
    let create_type = create_type(&path, params)?;
    let split = params.layout == Layout::Split2G;
    let sectors = params.size / SECTOR;
    let sparse = params.variant != Variant::Fixed;
    if params.size == 0
        || !params.size.is_multiple_of(SECTOR)
        || sectors > 1 << 41
        || (sparse && !split && sectors > MAX_SPARSE)
        || sectors.div_ceil(PART) > 4096 && split
    {
        return Err(Error::invalid(
            &path,
            format!(
                "a VMDK image of this kind cannot have {} bytes",
                params.size
            ),
        ));
    }
    if params.parent.is_some() != (params.variant == Variant::Differencing) {
        return Err(Error::invalid(
            &path,
            "a differencing image, and no other, has a parent",
        ));
    }
    if params.comment.contains(['"', '\0']) {
        return Err(Error::invalid(
            &path,
            "a comment cannot have double quotes or zero bytes",
        ));
    }
    let mut descriptor = Descriptor::new(create_type);
    let modification = Uuid::new_v4();
    descriptor.set_meta(&Meta {
        uuid: Some(params.uuid),
        modification: Some(modification),
        parent: params.parent,
        cid: Some(new_cid(modification)),
        comment: params.comment.clone(),
        physical: geometry_for(params.size),
        logical: crate::Geometry::default(),
    });
    if let Some(parent) = &params.parent_path {
        descriptor.set_parent_hint(parent);
    }
    progress.report(0, 1)?;
    let name = plain_name(&path)?;
    if sparse && !split {
        return make_single(file, params, descriptor, &name, progress);
    }
    let style = match (sparse, params.layout) {
        (true, _) => Style::Sparse,
        (false, Layout::Esx) => Style::Esx,
        (false, _) => Style::Flat,
    };
    let mut done = 0;
    for number in 1.. {
        if done == sectors {
            break;
        }
        let (part, len) = match split {
            true => (part_name(&name, style, number), PART.min(sectors - done)),
            false => (format!("{}-flat.vmdk", stem(&name)), sectors),
        };
        let (extent, line) = new_extent(&path, &part, style, len, made, |n| {
            progress.report(done * SECTOR + n, params.size)
        })?;
        drop(extent);
        descriptor.add_extent(line);
        done += len;
    }
    file.write(0, &descriptor.encode())?;
    file.sync()?;
    progress.report(1, 1)?;
    super::open(file)
}

/// The name of the descriptor's file, from which the names of the extents are made.
pub(super) fn plain_name(path: &Path) -> Result<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.contains(['"', '\n', '\r', '\\']) {
        return Err(Error::invalid(
            path,
            "the name of a VMDK image cannot have quotes or backslashes",
        ));
    }
    Ok(name.into_owned())
}

fn stem(name: &str) -> &str {
    name.strip_suffix(".vmdk").unwrap_or(name)
}

/// What an extent is called in its line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Sparse,
    Flat,
    Esx,
}

/// The name of a part of a split image; parts are counted from one on.
pub(super) fn part_name(name: &str, style: Style, number: usize) -> String {
    let letter = if style == Style::Sparse { 's' } else { 'f' };
    format!("{}-{letter}{number:03}.vmdk", stem(name))
}

/// Creates the file of an extent, which is added to `made`, and the line that describes it.
pub(super) fn new_extent(
    path: &Path,
    part: &str,
    style: Style,
    sectors: u64,
    made: &mut Vec<PathBuf>,
    report: impl FnMut(u64) -> Result<()>,
) -> Result<(HostFile, String)> {
    let file = HostFile::create(&path.with_file_name(part))?;
    made.push(file.path().to_path_buf());
    let line = match style {
        Style::Sparse => {
            header::write_new(&file, &Header::new(sectors, 0))?;
            format!("RW {sectors} SPARSE \"{part}\"")
        }
        Style::Flat | Style::Esx => {
            fill(&file, sectors * SECTOR, report)?;
            let word = if style == Style::Esx { "VMFS" } else { "FLAT" };
            format!("RW {sectors} {word} \"{part}\" 0")
        }
    };
    Ok((file, line))
}

/// Reserves the space of a flat extent, in pieces, so that a person sees progress.
fn fill(file: &HostFile, len: u64, mut report: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let piece = 64 << 20;
    let mut done = 0;
    while done < len {
        let n = piece.min(len - done);
        file.allocate(done, n)?;
        done += n;
        report(done)?;
    }
    file.sync()
}

fn make_single(
    file: HostFile,
    params: &CreateParams,
    mut descriptor: Descriptor,
    name: &str,
    progress: &mut Progress<'_>,
) -> Result<VmdkImage> {
    let sectors = params.size / SECTOR;
    descriptor.add_extent(format!("RW {sectors} SPARSE \"{name}\""));
    let text = descriptor.encode();
    let room = DESCRIPTOR.max((text.len() as u64 + 1024).div_ceil(SECTOR));
    let stream = params.layout == Layout::StreamOptimized;
    let header = match stream {
        true => Header::new_stream(sectors, room),
        false => Header::new(sectors, room),
    };
    file.set_len(header.overhead * SECTOR)?;
    file.write(SECTOR, &text)?;
    header::write_new(&file, &header)?;
    progress.report(1, 1)?;
    if !stream {
        return super::open(file);
    }
    let (path, mode) = (file.path().to_path_buf(), file.mode());
    Ok(VmdkImage {
        path,
        mode,
        home: Home::Embedded(SECTOR, room * SECTOR),
        descriptor,
        extents: vec![Extent {
            start: 0,
            len: params.size,
            writable: true,
            kind: Kind::Sparse(Box::new(SparseExtent::open_stream(file, header))),
        }],
        variant: params.variant,
        layout: params.layout,
        announced: true,
    })
}
