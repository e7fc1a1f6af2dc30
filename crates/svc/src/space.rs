//! Which object a path stands for.

use crate::forward::{self, Forwarded};
use crate::machine::MachineObject;
use crate::state::Svc;
use crate::view::View;
use crate::{
    cpuprofile, host, medium, mediumformat, netservice, network, parts, ports, snapshot,
    storagecontroller, system, usbfilter, virtualbox,
};
use api::Object;
use api::ipc::{ObjectSpace, Peer};
use std::sync::Arc;
use uuid::Uuid;

/// The service's objects.
pub struct Space(pub Arc<Svc>);

impl ObjectSpace for Space {
    fn resolve(&self, peer: &Arc<Peer>, path: &str) -> Option<Arc<dyn Object>> {
        let svc = self.0.clone();
        let mut words = path.strip_prefix('/')?.splitn(3, '/');
        let (kind, id, rest) = (words.next()?, words.next(), words.next().unwrap_or(""));
        match (kind, id) {
            ("VirtualBox", None) => Some(Arc::new(virtualbox::VirtualBoxObject(svc))),
            ("VirtualBox", Some("EventSource")) => Some(svc.events.clone()),
            ("VirtualBox", Some("SystemProperties")) => Some(Arc::new(system::SystemObject(svc))),
            ("VirtualBox", Some("Host")) if rest.is_empty() => {
                Some(Arc::new(host::HostObject(svc)))
            }
            ("VirtualBox", Some("Host")) => {
                let index = rest.strip_prefix("USBDeviceFilter/")?.parse().ok()?;
                Some(Arc::new(usbfilter::UsbDeviceFilter::of_host(svc, index)))
            }
            ("NatNetwork", Some(key)) => {
                let key = decode(key)?;
                Some(Arc::new(netservice::NatNetwork { svc, key }))
            }
            ("HostOnlyNetwork", Some(key)) => {
                let key = decode(key)?;
                Some(Arc::new(netservice::HostOnlyNetwork { svc, key }))
            }
            ("DhcpServer", Some(key)) => {
                let key = decode(key)?;
                Some(Arc::new(netservice::DhcpServer { svc, key }))
            }
            ("CPUProfile", Some(id)) => cpuprofile::object(id),
            ("MediumFormat", Some(id)) => mediumformat::object(id),
            ("Medium", Some(id)) => {
                let id = uuid(id)?;
                svc.with(|s| s.media.get(id).is_ok())
                    .then(|| Arc::new(medium::MediumObject { svc, id }) as Arc<dyn Object>)
            }
            ("VM", Some(id)) => Some(Arc::new(Forwarded {
                machine: uuid(id)?,
                path: format!("/{rest}"),
                svc,
            })),
            ("Machine" | "SessionMachine" | "MachineControl", Some(id)) => {
                let id = uuid(id)?;
                let mutable = kind != "Machine";
                let known = svc.with(|s| match (s.machine(id), kind) {
                    (Err(_), _) => false,
                    (Ok(_), "Machine") => true,
                    (Ok(e), "MachineControl") => {
                        e.vm.as_ref().is_some_and(|vm| vm.id() == peer.id())
                    }
                    // The session machine is for those who hold it.
                    (Ok(e), _) => {
                        let owner = e.owner.iter().map(|(s, _)| s);
                        let mut all = owner.chain(&e.shared).filter_map(std::sync::Weak::upgrade);
                        all.any(|s| s.peer == peer.id())
                            || e.vm.as_ref().is_some_and(|vm| vm.id() == peer.id())
                    }
                });
                known.then(|| {
                    part(
                        View {
                            svc,
                            id,
                            mutable,
                            snapshot: None,
                        },
                        rest,
                    )
                })?
            }
            ("SnapshotMachine", Some(id)) => {
                let (id, mut words) = (uuid(id)?, rest.splitn(2, '/'));
                let snapshot = uuid(words.next()?)?;
                let known = |s: &mut crate::state::State| {
                    let settings = s.machine(id).ok()?.settings().ok()?;
                    settings.find_snapshot(snapshot).map(drop)
                };
                svc.with(known)?;
                let snapshot = Some(snapshot);
                let view = View {
                    svc,
                    id,
                    mutable: false,
                    snapshot,
                };
                part(view, words.next().unwrap_or(""))
            }
            _ => None,
        }
    }

    fn children(&self, path: &str) -> Vec<String> {
        let ids = |ids: Vec<Uuid>| ids.iter().map(|i| i.simple().to_string()).collect();
        match path {
            "/" => ["VirtualBox", "Machine", "Medium"]
                .map(str::to_owned)
                .into(),
            "/VirtualBox" => ["Host", "SystemProperties", "EventSource"]
                .map(str::to_owned)
                .into(),
            "/Machine" => ids(self.0.with(|s| s.machines.iter().map(|m| m.id).collect())),
            "/Medium" => ids(self.0.with(|s| s.media.all().map(|m| m.id).collect())),
            _ => Vec::new(),
        }
    }

    fn connected(&self, peer: &Arc<Peer>) {
        self.0.peer_connected(peer);
    }

    fn disconnected(&self, peer: &Arc<Peer>) {
        forward::peer_gone(&self.0, peer);
        self.0.peer_gone(peer);
    }
}

/// An object that belongs to a machine.
fn part(view: View, path: &str) -> Option<Arc<dyn Object>> {
    let mut words = path.splitn(3, '/');
    let (kind, which, rest) = (words.next().unwrap_or(""), words.next(), words.next());
    let index = || which?.parse::<usize>().ok();
    let slot = || which?.parse::<u32>().ok();
    Some(match kind {
        "" => Arc::new(MachineObject(view)),
        "BIOSSettings" => Arc::new(parts::BiosSettings(view)),
        "GraphicsAdapter" => Arc::new(parts::GraphicsAdapter(view)),
        "VRDEServer" => Arc::new(parts::VrdeServer(view)),
        "TrustedPlatformModule" => Arc::new(parts::Tpm(view)),
        "NvramStore" => Arc::new(parts::NvramStore(view)),
        "RecordingSettings" => Arc::new(parts::RecordingSettings),
        "GuestDebugControl" => Arc::new(parts::GuestDebugControl(view)),
        "BandwidthControl" => Arc::new(parts::BandwidthControl(view)),
        "AudioSettings" if which.is_none() => Arc::new(parts::AudioSettings(view)),
        "AudioSettings" => Arc::new(parts::AudioAdapter(view)),
        "USBDeviceFilters" => Arc::new(usbfilter::UsbDeviceFilters(view)),
        "USBDeviceFilter" => Arc::new(usbfilter::UsbDeviceFilter::of_machine(view, index()?)),
        "USBController" => Arc::new(ports::UsbController {
            view,
            index: index()?,
        }),
        "SharedFolder" => Arc::new(ports::SharedFolder {
            view,
            index: index()?,
        }),
        "SerialPort" => Arc::new(ports::SerialPort {
            view,
            slot: slot()?,
        }),
        "ParallelPort" => Arc::new(ports::ParallelPort {
            view,
            slot: slot()?,
        }),
        "NetworkAdapter" if rest.is_none() => Arc::new(network::NetworkAdapter {
            view,
            slot: slot()?,
        }),
        "NetworkAdapter" => Arc::new(network::NatEngine {
            view,
            slot: slot()?,
        }),
        "StorageController" => Arc::new(storagecontroller::StorageController {
            view,
            name: decode(which?)?,
        }),
        "Snapshot" => Arc::new(snapshot::SnapshotObject {
            view,
            id: uuid(which?)?,
        }),
        _ => return None,
    })
}

/// UUIDs in paths have no hyphens.
pub fn uuid(text: &str) -> Option<Uuid> {
    (text.len() == 32).then(|| Uuid::try_parse(text).ok())?
}

/// Any text as a path element: letters and digits stay, `_` starts two hex digits.
pub fn encode(text: &str) -> String {
    let mut out = String::from("n");
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("_{b:02x}"));
        }
    }
    out
}

/// The inverse of [`encode`].
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.strip_prefix('n')?.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'_' {
            bytes.push(*first);
            continue;
        }
        let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = rest.get(2..)?;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn names_survive_paths() {
        for name in ["IDE Controller", "SATA", "", "_1", "größe/x"] {
            assert_eq!(decode(&encode(name)).as_deref(), Some(name));
        }
        assert_eq!(decode("n_zz"), None);
        assert_eq!(decode("n_ü"), None);
    }
}
