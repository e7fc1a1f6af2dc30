//! Packages as folders and archives, with manifests, beside the `tar` program, and hostile ones.

use ovf::{
    Algorithm, Content, Envelope, Error, File, Manifest, Package, digest_file, write_archive,
};
use proptest::prelude::*;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const DESCRIPTOR: &str = include_str!("data/box-1.0.ovf");
const DISK: &str = "box-disk001.vmdk";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("temporary folder")
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("write");
    path
}

/// `box.ovf`, its disk and a right manifest.
fn package_in(folder: &Path) -> PathBuf {
    let descriptor = put(folder, "box.ovf", DESCRIPTOR.as_bytes());
    put(folder, DISK, &b"disk".repeat(5000));
    let digest = |name: &str| {
        let digest = digest_file(Algorithm::Sha1, &folder.join(name), &mut || true);
        (name.to_owned(), digest.expect("digest"))
    };
    let manifest = Manifest {
        entries: vec![digest("box.ovf"), digest(DISK)],
    };
    put(folder, "box.mf", manifest.to_text().as_bytes());
    descriptor
}

fn contents(package: &Package) -> ovf::Result<Vec<u8>> {
    let mut out = Vec::new();
    let file = &package.envelope().files[0];
    package.extract(file, &mut out, 1 << 20, &mut |_, _| true)?;
    Ok(out)
}

fn tar(folder: &Path, arguments: &[&str]) -> String {
    let run = Command::new("tar")
        .current_dir(folder)
        .args(arguments)
        .output();
    let run = run.expect("tar runs");
    assert!(run.status.success(), "{run:?}");
    String::from_utf8(run.stdout).expect("UTF-8")
}

#[test]
fn a_folder_and_its_manifest() {
    let folder = folder();
    let path = package_in(folder.path());
    let package = Package::open(&path).expect("package");
    assert!(package.has_manifest());
    let file = package.envelope().files[0].clone();
    assert_eq!(package.size(&file).expect("size"), 20_000);
    assert_eq!(contents(&package).expect("disk"), b"disk".repeat(5000));
    assert_eq!(package.path_of(&file), Some(folder.path().join(DISK)));
    package.verify(&file, &mut |_, _| true).expect("right");

    // A changed disk, descriptor, manifest.
    put(folder.path(), DISK, b"other");
    assert!(matches!(contents(&package), Err(Error::Digest { .. })));
    let longer = DESCRIPTOR.replace("3.1", "3.2");
    put(folder.path(), "box.ovf", longer.as_bytes());
    assert!(matches!(Package::open(&path), Err(Error::Digest { .. })));
    put(folder.path(), "box.mf", b"SHA1(box.ovf)= 12");
    assert!(matches!(Package::open(&path), Err(Error::Manifest(_))));
    std::fs::remove_file(folder.path().join("box.mf")).expect("remove");
    assert!(!Package::open(&path).expect("package").has_manifest());
    std::fs::remove_file(folder.path().join(DISK)).expect("remove");
    assert!(matches!(Package::open(&path), Err(Error::Missing(_))));
}

#[test]
fn an_archive_that_tar_made() {
    let folder = folder();
    package_in(folder.path());
    for format in ["ustar", "gnu", "pax", "v7"] {
        tar(
            folder.path(),
            &[
                "-cf", "a.ova", "--format", format, "box.ovf", DISK, "box.mf",
            ],
        );
        let package = Package::open(&folder.path().join("a.ova")).expect(format);
        assert!(package.has_manifest());
        assert_eq!(contents(&package).expect("disk"), b"disk".repeat(5000));
        assert_eq!(package.path_of(&package.envelope().files[0]), None);
    }
}

#[test]
fn tar_reads_what_is_written() {
    let folder = folder();
    package_in(folder.path());
    let long = format!("{}.iso", "x".repeat(150));
    let files = [
        ("box.ovf".to_owned(), Content::Text(DESCRIPTOR.to_owned())),
        (DISK.to_owned(), Content::File(folder.path().join(DISK))),
        (long.clone(), Content::Text("cd".to_owned())),
    ];
    let mut out = Vec::new();
    let (mut last, mut total) = (0, 0);
    let mut progress = |done, of| {
        (last, total) = (done, of);
        true
    };
    write_archive(&mut out, &files, &mut progress).expect("written");
    assert_eq!(last, total);
    assert_eq!(total, 20_002 + DESCRIPTOR.len() as u64);
    let path = put(folder.path(), "out.ova", &out);
    let listed = tar(folder.path(), &["tf", "out.ova"]);
    assert_eq!(listed, format!("box.ovf\n{DISK}\n{long}\n"));
    let disk = tar(folder.path(), &["-xOf", "out.ova", DISK]);
    assert_eq!(disk.as_bytes(), b"disk".repeat(5000));
    assert_eq!(
        contents(&Package::open(&path).expect("package")).expect("disk"),
        b"disk".repeat(5000)
    );
    let stopped = write_archive(&mut Vec::new(), &files, &mut |_, _| false);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let bad = [("../x".to_owned(), Content::Text(String::new()))];
    assert!(write_archive(&mut Vec::new(), &bad, &mut |_, _| true).is_err());
}

#[test]
fn compressed_files_come_out_plain_and_bounded() {
    let folder = folder();
    let descriptor = DESCRIPTOR.replace(
        "ovf:id=\"file1\"",
        "ovf:id=\"file1\" ovf:compression=\"gzip\"",
    );
    let path = put(folder.path(), "box.ovf", descriptor.as_bytes());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![7; 1 << 20]).expect("memory");
    put(folder.path(), DISK, &gzip.finish().expect("memory"));
    let package = Package::open(&path).expect("package");
    assert_eq!(contents(&package).expect("disk"), vec![7; 1 << 20]);
    let file = &package.envelope().files[0];
    let small = package.extract(file, &mut std::io::sink(), 1000, &mut |_, _| true);
    assert!(matches!(small, Err(Error::Descriptor(_))));
    let stopped = package.extract(file, &mut std::io::sink(), 1 << 30, &mut |_, _| false);
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

/// An archive of a descriptor and one more entry of that kind and name.
fn with_entry(name: &str, kind: tar::EntryType, link: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, data) in [
        ("box.ovf", tar::EntryType::Regular, DESCRIPTOR.as_bytes()),
        (DISK, tar::EntryType::Regular, b"disk"),
        (name, kind, b""),
    ] {
        let mut header = tar::Header::new_ustar();
        // `set_path` refuses what we want to try.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        if !link.is_empty() && kind != tar::EntryType::Regular {
            header.set_link_name(link).expect("link");
        }
        header.set_cksum();
        builder.append(&header, data).expect("memory");
    }
    builder.into_inner().expect("memory")
}

#[test]
fn archives_with_anything_but_plain_files_are_refused() {
    use tar::EntryType as T;
    let folder = folder();
    let opens = |bytes: &[u8]| Package::open(&put(folder.path(), "x.ova", bytes));
    opens(&with_entry("plain", T::Regular, "")).expect("a plain file is fine");
    opens(&with_entry("./dotted", T::Regular, "")).expect("so is this");
    for (name, kind, link) in [
        ("../up", T::Regular, ""),
        ("/etc/passwd", T::Regular, ""),
        ("a/b", T::Regular, ""),
        ("a\\b", T::Regular, ""),
        ("..", T::Regular, ""),
        (".", T::Regular, ""),
        ("c:x", T::Regular, ""),
        ("box.ovf", T::Regular, ""),
        ("link", T::Symlink, "/etc/passwd"),
        ("link", T::Link, "box.ovf"),
        ("folder", T::Directory, ""),
        ("device", T::Block, ""),
        ("pipe", T::Fifo, ""),
    ] {
        let opened = opens(&with_entry(name, kind, link));
        assert!(matches!(opened, Err(Error::Archive(_))), "{name} {kind:?}");
    }
    // Cut off, empty, no archive.
    let whole = with_entry("plain", T::Regular, "");
    for length in [0, 100, 512, 1000, 512 + DESCRIPTOR.len()] {
        assert!(opens(&whole[..length]).is_err(), "{length}");
    }
    assert!(opens(&[0xff; 4096]).is_err());
    // A size beyond the end.
    let mut header = tar::Header::new_gnu();
    header.set_path("box.ovf").expect("name");
    header.set_size(u64::MAX / 2);
    header.set_cksum();
    assert!(opens(header.as_bytes()).is_err());
    // An extension that asks for memory.
    let mut header = tar::Header::new_gnu();
    header.set_path("long").expect("name");
    header.set_entry_type(T::GNULongName);
    header.set_size(1 << 20);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(bytes.len() + (1 << 20), b'a');
    assert!(opens(&bytes).is_err());
}

#[test]
fn references_stay_inside() {
    let folder = folder();
    for href in [
        "../secret",
        "/etc/passwd",
        "a/../../b",
        "",
        "file:///etc/passwd",
        "a//b",
    ] {
        let text = DESCRIPTOR.replace(DISK, href);
        let path = put(folder.path(), "box.ovf", text.as_bytes());
        let opened = Package::open(&path);
        assert!(
            matches!(opened, Err(Error::Descriptor(_))),
            "{href}: {opened:?}"
        );
    }
    std::fs::create_dir(folder.path().join("sub")).expect("folder");
    put(&folder.path().join("sub"), "d.vmdk", b"x");
    let text = DESCRIPTOR.replace(DISK, "sub/d.vmdk");
    let path = put(folder.path(), "box.ovf", text.as_bytes());
    assert_eq!(
        contents(&Package::open(&path).expect("package")).expect("disk"),
        b"x"
    );
}

#[test]
fn a_manifest_written_by_sha1sum_agrees() {
    let folder = folder();
    package_in(folder.path());
    let run = Command::new("sha1sum")
        .current_dir(folder.path())
        .arg(DISK)
        .output();
    let said = String::from_utf8(run.expect("sha1sum runs").stdout).expect("UTF-8");
    let ours = digest_file(Algorithm::Sha1, &folder.path().join(DISK), &mut || true);
    assert!(said.starts_with(&ours.expect("digest").to_string()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damaged archives are opened or refused, and files come out of them or not.
    #[test]
    fn damaged_archives(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        headers_only in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = with_entry("plain", tar::EntryType::Regular, "");
        for (at, value) in changes {
            let range = if headers_only { 512 } else { bytes.len() };
            let at = at.index(range);
            bytes[at] = value;
        }
        if headers_only {
            // With a right checksum the rest of the header counts.
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bytes[..512]);
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = folder();
        let path = put(folder.path(), "x.ova", &bytes);
        if let Ok(package) = Package::open(&path) {
            let files: Vec<File> = package.envelope().files.clone();
            for file in files {
                let mut out = Vec::new();
                let _ = package.extract(&file, &mut out, 1 << 20, &mut |_, _| true);
                prop_assert!(out.len() <= bytes.len());
            }
            let _ = Envelope::parse(&package.envelope().to_xml()).expect("readable");
        }
        // Nothing was written anywhere.
        prop_assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1);
    }
}
