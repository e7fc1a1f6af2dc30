//! `IHost`: what this computer is.

use crate::constants;
use crate::conv::not_found;
use crate::state::Svc;
use crate::usbfilter::UsbDeviceFilter;
use api::types::*;
use api::{Call, ObjRef, server};
use std::fs;
use std::sync::Arc;

pub struct HostObject(pub Arc<Svc>);

/// Host drives have no objects yet; their references say which device they are.
pub fn drive_path(device: &str) -> ObjRef {
    ObjRef::new(format!("/HostDrive/{}", crate::space::encode(device)))
}

/// The inverse of [`drive_path`].
pub fn drive_of(reference: &ObjRef) -> Option<String> {
    crate::space::decode(reference.path().strip_prefix("/HostDrive/")?)
}

/// A random address with VirtualBox's prefix.
pub fn random_mac() -> String {
    let random = iprt::uuid::random();
    let [a, b, c, ..] = random.as_bytes();
    format!("080027{a:02X}{b:02X}{c:02X}")
}

/// One value of `/proc/meminfo`, in MiB.
fn memory(key: &str) -> u32 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    let kib = line
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    u32::try_from(kib / 1024).unwrap_or(u32::MAX)
}

/// One value of every processor in `/proc/cpuinfo`.
fn cpus(key: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .filter_map(|l| l.split_once(':'))
        .filter(|(k, _)| k.trim() == key)
        .map(|(_, v)| v.trim().to_owned())
        .collect()
}

fn processors() -> u32 {
    u32::try_from(cpus("processor").len())
        .unwrap_or(u32::MAX)
        .max(1)
}

/// Physical cores, each counted once.
fn cores() -> u32 {
    let mut ids: Vec<_> = cpus("physical id")
        .into_iter()
        .zip(cpus("core id"))
        .collect();
    ids.sort();
    ids.dedup();
    if ids.is_empty() {
        processors()
    } else {
        u32::try_from(ids.len()).unwrap_or(u32::MAX)
    }
}

impl server::IHost for HostObject {
    constants! {
        dvd_drives: Vec<ObjRef> = Vec::new();
        floppy_drives: Vec<ObjRef> = Vec::new();
        audio_devices: Vec<ObjRef> = Vec::new();
        usb_devices: Vec<ObjRef> = Vec::new();
        network_interfaces: Vec<ObjRef> = Vec::new();
        video_input_devices: Vec<ObjRef> = Vec::new();
        host_drives: Vec<ObjRef> = Vec::new();
        acceleration3d_available: bool = false;
        operating_system: String = "Linux".into();
        processor_count: u32 = processors();
        processor_online_count: u32 = processors();
        processor_core_count: u32 = cores();
        processor_online_core_count: u32 = cores();
        memory_size: u32 = memory("MemTotal");
        memory_available: u32 = memory("MemAvailable");
        utc_time: i64 = crate::state::now();
    }

    fn usb_device_filters(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        Ok(UsbDeviceFilter::all_of_host(&self.0))
    }
    fn create_usb_device_filter(&self, cx: &Call, name: String) -> api::Result<ObjRef> {
        Ok(cx.export(Arc::new(UsbDeviceFilter::loose(name))))
    }
    fn insert_usb_device_filter(
        &self,
        cx: &Call,
        position: u32,
        filter: ObjRef,
    ) -> api::Result<()> {
        UsbDeviceFilter::insert_into_host(cx, &self.0, position, &filter)
    }
    fn remove_usb_device_filter(&self, _cx: &Call, position: u32) -> api::Result<()> {
        UsbDeviceFilter::remove_from_host(&self.0, position)
    }

    fn os_version(&self, _cx: &Call) -> api::Result<String> {
        Ok(fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned())
    }
    fn name_servers(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(resolver("nameserver"))
    }
    fn search_strings(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(resolver("search"))
    }
    fn domain_name(&self, _cx: &Call) -> api::Result<String> {
        Ok(resolver("domain").into_iter().next().unwrap_or_default())
    }
    fn get_processor_speed(&self, _cx: &Call, cpu: u32) -> api::Result<u32> {
        let speed = cpus("cpu MHz")
            .get(cpu as usize)
            .and_then(|s| s.split('.').next()?.parse().ok());
        Ok(speed.unwrap_or(0))
    }
    fn get_processor_description(&self, _cx: &Call, cpu: u32) -> api::Result<String> {
        Ok(cpus("model name")
            .into_iter()
            .nth(cpu as usize)
            .unwrap_or_default())
    }
    fn get_processor_feature(&self, _cx: &Call, feature: ProcessorFeature) -> api::Result<bool> {
        let flags = cpus("flags").into_iter().next().unwrap_or_default();
        let has = |name: &str| flags.split_whitespace().any(|f| f == name);
        let virt = (has("vmx") || has("svm")) && std::path::Path::new("/dev/kvm").exists();
        Ok(match feature {
            ProcessorFeature::HWVirtEx => virt,
            ProcessorFeature::PAE => has("pae"),
            ProcessorFeature::LongMode => has("lm"),
            ProcessorFeature::NestedPaging => virt && (has("ept") || has("npt")),
            ProcessorFeature::UnrestrictedGuest => virt && (has("ept") || has("svm")),
            ProcessorFeature::NestedHWVirt => false,
            ProcessorFeature::VirtVmsaveVmload => virt && has("v_vmsave_vmload"),
        })
    }
    fn generate_mac_address(&self, _cx: &Call) -> api::Result<String> {
        Ok(random_mac())
    }
    fn find_host_network_interfaces_of_type(
        &self,
        _cx: &Call,
        _kind: HostNetworkInterfaceType,
    ) -> api::Result<Vec<ObjRef>> {
        Ok(Vec::new())
    }
    fn find_host_network_interface_by_name(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        Err(not_found(format!(
            "The host network interface with the given name could not be found: '{name}'"
        )))
    }
    fn find_host_dvd_drive(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        Err(not_found(format!(
            "The host DVD drive named '{name}' could not be found"
        )))
    }
    fn find_host_floppy_drive(&self, _cx: &Call, name: String) -> api::Result<ObjRef> {
        Err(not_found(format!(
            "The host floppy drive named '{name}' could not be found"
        )))
    }
}
api::object!(HostObject: IHost);

/// Words after a keyword of `/etc/resolv.conf`.
fn resolver(key: &str) -> Vec<String> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines()
        .filter_map(|l| l.trim().strip_prefix(key))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}
