//! What the tests of this folder share.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use storage::Container;
use storage::CreateParams;
use storage::OpenMode;
use storage::ParentLink;
use storage::Progress;
use storage::Variant;
use storage::create_image;

pub const MIB: u64 = 1 << 20;

/// splitmix64: a failure can be repeated from its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn fill(&mut self, data: &mut [u8]) {
        for chunk in data.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// Runs qemu-img; returns whether it succeeded, and all it said.
pub fn qemu_img(args: &[&dyn AsRef<OsStr>]) -> (bool, String) {
    let mut command = Command::new("qemu-img");
    for arg in args {
        command.arg(arg.as_ref());
    }
    let output = command.output().expect(
        "this test compares with qemu-img, which is missing: install the Debian package qemu-utils",
    );
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

pub fn qemu_img_ok(args: &[&dyn AsRef<OsStr>]) -> String {
    let (ok, text) = qemu_img(args);
    assert!(ok, "qemu-img failed: {text}");
    text
}

/// A folder in memory where there is one: for tests that flush thousands of times.
pub fn fast_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

pub fn create(path: &Path, format: &str, params: &CreateParams) -> Container {
    let image = create_image(path, format, params, &mut Progress::none()).unwrap();
    Container::new(image).unwrap()
}

/// Makes a differencing image on top of a chain and returns the longer chain, writable.
pub fn create_child(chain: &[&Path], child: &Path, size: u64) -> Container {
    let mut below = Container::open_chain(chain, OpenMode::ReadOnly).unwrap();
    let meta = below.images().last().unwrap().meta();
    let mut params = CreateParams::new(size, Variant::Differencing);
    params.parent = Some(ParentLink {
        uuid: meta.uuid.unwrap_or_default(),
        modification: meta.modification.unwrap_or_default(),
        cid: meta.cid,
    });
    params.parent_path = chain.last().map(|p| p.to_path_buf());
    let format = child.extension().unwrap().to_str().unwrap();
    below
        .push(create_image(child, format, &params, &mut Progress::none()).unwrap())
        .unwrap();
    below
}

pub fn contents(disk: &Container) -> Vec<u8> {
    let mut all = vec![0; disk.size() as usize];
    disk.read_at(0, &mut all).unwrap();
    all
}

#[track_caller]
pub fn assert_same(left: &[u8], right: &[u8], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}: length");
    if let Some(at) = left.iter().zip(right).position(|(l, r)| l != r) {
        panic!(
            "{what}: byte {at:#x} is {:#x}, not {:#x}",
            left[at], right[at]
        );
    }
}

/// A VHDX with these bytes, which qemu-img makes.
pub fn make_vhdx(path: &Path, data: &[u8], options: &str) {
    let raw = path.with_extension("source");
    std::fs::write(&raw, data).unwrap();
    qemu_img_ok(&[
        &"convert", &"-f", &"raw", &"-O", &"vhdx", &"-o", &options, &raw, &path,
    ]);
    std::fs::remove_file(raw).unwrap();
}

/// A DMG with these bytes, a number of sectors: in turn compressed, zero (where they are) and plain.
pub fn dmg(data: &[u8]) -> Vec<u8> {
    const PIECE: usize = 100 * 512;
    let mut file = Vec::new();
    let mut runs = Vec::new();
    for (i, piece) in data.chunks(PIECE).enumerate() {
        let start = file.len() as u64;
        let kind = match i % 3 {
            _ if piece.iter().all(|b| *b == 0) => [0, 2][i % 2],
            2 => {
                file.extend_from_slice(piece);
                1
            }
            _ => {
                let mut packed = vec![0; 2 * PIECE];
                let mut packer = flate2::Compress::new(flate2::Compression::fast(), true);
                packer
                    .compress(piece, &mut packed, flate2::FlushCompress::Finish)
                    .unwrap();
                file.extend_from_slice(&packed[..packer.total_out() as usize]);
                0x8000_0005_u32
            }
        };
        let sectors = (i * PIECE / 512, piece.len() / 512);
        runs.push((kind, sectors, start, file.len() as u64 - start));
    }
    runs.push((0xFFFF_FFFF, (data.len() / 512, 0), file.len() as u64, 0));
    let mut table = b"mish\0\0\0\x01".to_vec();
    table.resize(204, 0);
    table[16..24].copy_from_slice(&(data.len() as u64 / 512).to_be_bytes());
    table[200..204].copy_from_slice(&(runs.len() as u32).to_be_bytes());
    for (kind, (first, count), at, len) in runs {
        table.extend_from_slice(&kind.to_be_bytes());
        table.extend_from_slice(&[0; 4]);
        for number in [first as u64, count as u64, at, len] {
            table.extend_from_slice(&number.to_be_bytes());
        }
    }
    let list = format!(
        "<?xml version=\"1.0\"?>\n<plist version=\"1.0\"><dict><key>resource-fork</key><dict>\
         <key>blkx</key><array><dict><key>Data</key>\n<data>\n{}\n</data>\n</dict></array>\
         </dict></dict></plist>\n",
        base64(&table)
    );
    let mut trailer = vec![0; 512];
    trailer[..12].copy_from_slice(b"koly\0\0\0\x04\0\0\x02\0");
    trailer[32..40].copy_from_slice(&(file.len() as u64).to_be_bytes());
    trailer[216..224].copy_from_slice(&(file.len() as u64).to_be_bytes());
    trailer[224..232].copy_from_slice(&(list.len() as u64).to_be_bytes());
    trailer[492..500].copy_from_slice(&(data.len() as u64 / 512).to_be_bytes());
    file.extend_from_slice(list.as_bytes());
    file.extend_from_slice(&trailer);
    file
}

fn base64(data: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (i, three) in data.chunks(3).enumerate() {
        let bits =
            three.iter().fold(0, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit > three.len() {
                '='
            } else {
                char::from(DIGITS[value as usize])
            });
        }
        if i % 13 == 12 {
            text.push('\n');
        }
    }
    text
}

/// The checksums of a VHDX: headers and region tables.
pub fn seal_vhdx(bytes: &mut [u8]) {
    for (at, len) in [(64, 4), (128, 4), (192, 64), (256, 64)] {
        let Some(part) = bytes.get_mut(at << 10..(at + len) << 10) else {
            return;
        };
        part[4..8].fill(0);
        let sum = part.iter().fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                sum >> 1 ^ (0x82F6_3B78 & (sum & 1).wrapping_neg())
            })
        });
        part[4..8].copy_from_slice(&(!sum).to_le_bytes());
    }
}
