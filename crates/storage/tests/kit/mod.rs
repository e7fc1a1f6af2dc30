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
