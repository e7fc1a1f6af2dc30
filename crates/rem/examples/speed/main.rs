//! Runs a flat 64-bit binary (for any position, falls through at its end) natively and in the
//! engine, with windows and without, and prints the times and their ratios to native:
//! `speed FILE [ROUNDS]`. It may use 64 MiB of zeroed memory from 64 MiB behind its start on.
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    dead_code
)]

mod guest;
mod host;

use std::time::Instant;

/// Zeroed memory of the program's own, as the guest has it there too.
fn bss() {
    // SAFETY: nothing else is mapped there in this process.
    let p = unsafe {
        libc::mmap(
            (host::CODE + (64 << 20)) as *mut libc::c_void,
            64 << 20,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    assert_eq!(
        p as u64,
        host::CODE + (64 << 20),
        "cannot map the data area"
    );
}

fn main() {
    let mut args = std::env::args().skip(1);
    let code = std::fs::read(args.next().expect("speed FILE [ROUNDS]")).unwrap();
    let rounds: u32 = args.next().map_or(3, |n| n.parse().unwrap());
    host::prepare();
    bss();
    let mut start = host::Regs::default();
    start.gpr[4] = host::DATA + host::DATA_SIZE as u64 - 64;
    start.fx[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
    start.fx[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    let mut data = vec![0; host::DATA_SIZE];
    let kinds = [rem::Windows::Never, rem::Windows::Always];
    let mut guests = kinds.map(|windows| guest::Guest::new(windows, rem::Checks::Auto));
    for _ in 0..rounds {
        let mut a = start.clone();
        let t = Instant::now();
        host::run(&code, &mut a, &mut data);
        let native = t.elapsed();
        print!("native {native:?}");
        for (guest, kind) in guests.iter_mut().zip(kinds) {
            let mut b = start.clone();
            let t = Instant::now();
            let exit = guest.run(&code, &mut b, &mut data);
            let engine = t.elapsed();
            let ratio = engine.as_secs_f64() / native.as_secs_f64();
            print!(" windows {kind:?}: {engine:?} {ratio:.2}");
            if a.gpr[0] != b.gpr[0] {
                print!(" WRONG {:#x} {:#x} {exit:?}", a.gpr[0], b.gpr[0]);
            }
        }
        println!();
    }
}
