//! KVM calls that kvm-ioctls does not have, and decoding of `kvm_run`.
#![allow(unsafe_code)] // ioctls on our own descriptors, and the union the kernel fills

use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SET_TPR,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR,
    KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
    kvm_device_attr, kvm_interrupt, kvm_run, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

use crate::Error;
use crate::event::Event;

const KVM_INTERRUPT: libc::c_ulong = 0x4004_ae86;
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;
const KVM_VCPU_TSC_CTRL: u32 = 0;
const KVM_VCPU_TSC_OFFSET: u64 = 0;

/// Queues external interrupt `vector`.
pub(crate) fn interrupt(vcpu: &VcpuFd, vector: u8) -> Result<(), Error> {
    let arg = kvm_interrupt { irq: vector.into() };
    // SAFETY: the ioctl reads one `kvm_interrupt`.
    let done = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT as _, &raw const arg) };
    last_error(done, "KVM_INTERRUPT")
}

/// Sets guest TSC minus host TSC exactly.
pub(crate) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), Error> {
    let attr = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET,
        addr: (&raw const offset) as u64,
        flags: 0,
    };
    // SAFETY: the ioctl reads one `kvm_device_attr` and the u64 it points at; both live here.
    let done = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_DEVICE_ATTR as _, &raw const attr) };
    last_error(done, "KVM_SET_DEVICE_ATTR")
}

fn last_error(done: libc::c_int, call: &'static str) -> Result<(), Error> {
    if done == 0 {
        Ok(())
    } else {
        Err(Error::Call {
            call,
            reason: std::io::Error::last_os_error().to_string(),
        })
    }
}

/// Puts `xsave` (standard layout) into the vCPU.
pub(crate) fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), Error> {
    // SAFETY: the state components shown to guests (x87, SSE, AVX) fit into the 4096 bytes of
    // `kvm_xsave`; dynamically enabled larger ones are never requested by this process.
    unsafe { vcpu.set_xsave(xsave) }.map_err(Error::call("KVM_SET_XSAVE"))
}

/// What made KVM_RUN return. `run_size` is the length of the mapping that `run` starts.
pub(crate) fn decode(run: &mut kvm_run, run_size: usize) -> Event<'_> {
    let base = (&raw mut *run).cast::<u8>();
    // SAFETY: all union fields are plain integers for which any bits are valid; each is read only
    // under the exit reason that fills it.
    unsafe {
        match run.exit_reason {
            KVM_EXIT_IO => {
                let io = run.__bindgen_anon_1.io;
                let len = usize::from(io.size) * io.count as usize;
                let at = io.data_offset as usize;
                if at.checked_add(len).is_none_or(|end| end > run_size) {
                    return Event::Failed("port data outside of the shared page".into());
                }
                // SAFETY: inside the mapping (checked), which is unaliased while `run` is borrowed.
                let data = std::slice::from_raw_parts_mut(base.add(at), len);
                if u32::from(io.direction) == KVM_EXIT_IO_OUT {
                    Event::PortOut {
                        port: io.port,
                        size: io.size,
                        data,
                    }
                } else {
                    Event::PortIn {
                        port: io.port,
                        size: io.size,
                        data,
                    }
                }
            }
            KVM_EXIT_MMIO => {
                let mmio = &mut run.__bindgen_anon_1.mmio;
                let len = (mmio.len as usize).min(mmio.data.len());
                if mmio.is_write != 0 {
                    Event::MmioWrite {
                        gpa: mmio.phys_addr,
                        data: &mmio.data[..len],
                    }
                } else {
                    Event::MmioRead {
                        gpa: mmio.phys_addr,
                        data: &mut mmio.data[..len],
                    }
                }
            }
            KVM_EXIT_X86_RDMSR => {
                let msr = &mut run.__bindgen_anon_1.msr;
                Event::ReadMsr {
                    index: msr.index,
                    value: &mut msr.data,
                    error: &mut msr.error,
                }
            }
            KVM_EXIT_X86_WRMSR => {
                let msr = &mut run.__bindgen_anon_1.msr;
                Event::WriteMsr {
                    index: msr.index,
                    value: msr.data,
                    error: &mut msr.error,
                }
            }
            KVM_EXIT_HLT => Event::Halt,
            KVM_EXIT_INTR | KVM_EXIT_IRQ_WINDOW_OPEN | KVM_EXIT_SET_TPR => Event::Interrupted,
            KVM_EXIT_SHUTDOWN => Event::Shutdown,
            KVM_EXIT_SYSTEM_EVENT
                if matches!(
                    run.__bindgen_anon_1.system_event.type_,
                    KVM_SYSTEM_EVENT_RESET | KVM_SYSTEM_EVENT_SHUTDOWN
                ) =>
            {
                Event::Shutdown
            }
            KVM_EXIT_DEBUG => Event::Debug,
            KVM_EXIT_INTERNAL_ERROR => {
                let e = run.__bindgen_anon_1.emulation_failure;
                if e.suberror == KVM_INTERNAL_ERROR_EMULATION {
                    Event::Failed(format!(
                        "its emulator lacks an instruction{}",
                        instruction_bytes(run)
                    ))
                } else {
                    Event::Failed(format!("internal error {}", e.suberror))
                }
            }
            KVM_EXIT_FAIL_ENTRY => Event::Failed(format!(
                "entry failed, hardware reason {:#x}",
                run.__bindgen_anon_1
                    .fail_entry
                    .hardware_entry_failure_reason
            )),
            other => Event::Failed(format!("unknown exit {other}")),
        }
    }
}

/// ` (bytes 0f 01 ...)` of the instruction that could not be emulated, where KVM tells.
fn instruction_bytes(run: &kvm_run) -> String {
    // SAFETY: plain integers, filled under KVM_INTERNAL_ERROR_EMULATION.
    let (ndata, data) = unsafe {
        let e = &run.__bindgen_anon_1.internal;
        (e.ndata, e.data)
    };
    // data[0]: flags, bit 0: instruction bytes follow (size in the first byte of data[1]).
    if ndata < 3 || data[0] & 1 == 0 {
        return String::new();
    }
    let bytes: Vec<u8> = data[1..].iter().flat_map(|d| d.to_le_bytes()).collect();
    let n = usize::from(bytes[0]).min(15);
    let text: Vec<String> = bytes[1..=n].iter().map(|b| format!("{b:02x}")).collect();
    format!(" (bytes {})", text.join(" "))
}
