//! The way to VM processes: connecting to them, handing clients' calls on, noticing their end.

use crate::session;
use crate::space::Space;
use crate::state::{Entry, State, Svc, is_running, lock};
use api::ipc::{Peer, paths};
use api::meta::{Interface, Op};
use api::progress::Progress;
use api::proxy::{Proxy, Remote};
use api::types::*;
use api::{Args, Call, Error, ObjRef, Object, Val, client};
use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Counted references into VM processes, by client connection: machine and path there, count.
pub type Held = HashMap<u64, HashMap<(Uuid, String), u32>>;

/// A VM process's object as clients address it.
pub fn path(machine: Uuid, object: &str) -> ObjRef {
    ObjRef::new(format!("/VM/{}{object}", machine.simple()))
}

/// The VM process's session control.
pub fn control(vm: &Arc<Peer>) -> client::InternalSessionControl {
    let reference = ObjRef::new(api::vm::SESSION_CONTROL);
    client::InternalSessionControl::from_proxy(Proxy::new(vm.clone(), reference))
}

fn connect(svc: &Arc<Svc>, id: Uuid) -> std::io::Result<api::Result<Arc<Peer>>> {
    let socket = paths::vm_socket(&svc.runtime, &id.to_string());
    let stream = UnixStream::connect(socket)?;
    Ok(Peer::connect(stream, Some(Arc::new(Space(svc.clone())))))
}

fn introduce(svc: &Arc<Svc>, id: Uuid, vm: &Arc<Peer>) -> api::Result<()> {
    let target = ObjRef::new(format!("/MachineControl/{}", id.simple()));
    // The call only carries the path; nothing is asked of it here.
    let target = client::InternalMachineControl::from_proxy(Proxy::new(vm.clone(), target));
    svc.with(|state| state.machine_mut(id).map(|e| e.vm = Some(vm.clone())))?;
    control(vm).assign_machine(&target).inspect_err(|_| {
        let _ = svc.with(|state| state.machine_mut(id).map(|e| e.vm = None));
    })
}

/// Connects to the VM process that just locked a machine.
///
/// # Errors
/// `VBOX_E_VM_ERROR` when it does not listen.
pub fn attach(svc: &Arc<Svc>, id: Uuid) -> api::Result<()> {
    let vm = connect(svc, id).map_err(|e| {
        Error::new(
            ResultCode::VBOX_E_VM_ERROR,
            format!("the VM process does not listen: {e}"),
        )
    })??;
    introduce(svc, id, &vm)
}

/// Finds the machines that went on without a service, and those that died meanwhile. A VM process
/// that does not answer (stopped, or on a busy host) is waited for a few seconds, then taken over
/// whenever it does.
pub fn find_running(svc: &Arc<Svc>) {
    let Ok(folder) = std::fs::read_dir(&svc.runtime) else {
        return;
    };
    let (done, all_done) = std::sync::mpsc::channel();
    let mut waiting = 0;
    for file in folder.flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix("vm-").and_then(iprt::uuid::parse) else {
            continue;
        };
        let (svc, done) = (svc.clone(), done.clone());
        let finder = move || {
            find_one(&svc, id, &file.path());
            // Nobody waits any more for one that took too long.
            let _ = done.send(());
        };
        match std::thread::Builder::new()
            .name("vm-find".into())
            .spawn(finder)
        {
            Ok(_) => waiting += 1,
            Err(e) => tracing::error!("no thread to take over machine {id}: {e}"),
        }
    }
    let end = Instant::now() + Duration::from_secs(5);
    for _ in 0..waiting {
        if all_done
            .recv_timeout(end.saturating_duration_since(Instant::now()))
            .is_err()
        {
            tracing::warn!("not all running machines answer yet");
            return;
        }
    }
}

fn find_one(svc: &Arc<Svc>, id: Uuid, socket: &Path) {
    match connect(svc, id) {
        Ok(Ok(vm)) => {
            if let Err(e) = readopt(svc, id, &vm) {
                tracing::error!("the VM process of machine {id} cannot be taken over: {e}");
                vm.close();
            }
        }
        Ok(Err(e)) => tracing::error!("the VM process of machine {id} does not answer: {e}"),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
            // Nobody listens any more: the process died while no service ran.
            let _ = std::fs::remove_file(socket);
            svc.with(|state| {
                if let Ok(entry) = state.machine_mut(id) {
                    entry.state = MachineState::Running;
                    session::release(entry);
                }
            });
        }
        Err(e) => tracing::error!("the socket of machine {id}: {e}"),
    }
}

fn readopt(svc: &Arc<Svc>, id: Uuid, vm: &Arc<Peer>) -> api::Result<()> {
    let control = control(vm);
    let (pid, name) = (control.pid()?, control.session_name()?);
    svc.with(|state| {
        let entry = state.machine_mut(id)?;
        entry.pending = Some(entry.settings()?.clone());
        entry.session_state = SessionState::Locked;
        entry.session_name = name;
        entry.vm_pid = pid;
        Ok::<_, Error>(())
    })?;
    introduce(svc, id, vm)?;
    // Asked after it can report, so that no change falls between.
    let (state, since) = (control.machine_state()?, control.last_state_change()?);
    svc.with(|s| {
        s.machine_mut(id).map(|entry| {
            entry.state = state;
            entry.since = since;
        })
    })
}

/// A connection ended. If it led to a VM process, its machine is off now, or has aborted.
pub fn peer_gone(svc: &Arc<Svc>, peer: &Arc<Peer>) {
    let gone = svc.with(|state: &mut State| {
        let is_it = |e: &&mut Entry| e.vm.as_ref().is_some_and(|vm| vm.id() == peer.id());
        let entry = state.machines.iter_mut().find(is_it)?;
        entry.vm = None;
        entry.vm_pid = 0;
        let launch = entry.launch.is_some();
        let aborted = session::release(entry);
        // A process that stopped by itself took its socket away; one that was killed did not.
        let _ = std::fs::remove_file(paths::vm_socket(&svc.runtime, &entry.id.to_string()));
        Some((entry.id, aborted, launch))
    });
    if let Some((id, aborted, _)) = gone {
        if let Some(state) = aborted {
            tracing::warn!("the VM process of machine {id} went away: {}", state.name());
            svc.fire_state(id, state);
        }
        svc.fire_session(id, SessionState::Unlocked);
    }
    // References that the client held into VM processes.
    let held = lock(&svc.forwarded).remove(&peer.id()).unwrap_or_default();
    for ((id, path), count) in held {
        let vm = svc.with(|state| state.machine(id).ok().and_then(|e| e.vm.clone()));
        if let Some(vm) = vm {
            for _ in 0..count {
                drop(Proxy::new(vm.clone(), ObjRef::new(path.clone())));
            }
        }
    }
}

/// Methods of `IConsole` after which the VM process ends.
const ENDING: &[&str] = &["powerDown", "teleport"];

/// An object of a VM process.
pub struct Forwarded {
    pub svc: Arc<Svc>,
    pub machine: Uuid,
    /// Path in the VM process.
    pub path: String,
}

impl Forwarded {
    /// Paths of the VM process's own objects get the machine in front; those of the service's
    /// objects are the same on both sides.
    fn outward(&self, cx: &Call, val: Val) -> Val {
        match val {
            Val::Obj(o) if o.path().starts_with("/ref/") => {
                let mut held = lock(&self.svc.forwarded);
                let of_client = held.entry(cx.peer.id()).or_default();
                *of_client
                    .entry((self.machine, o.path().to_owned()))
                    .or_default() += 1;
                Val::Obj(path(self.machine, o.path()))
            }
            Val::Obj(o) if o.path().starts_with(api::vm::CONSOLE) => {
                Val::Obj(path(self.machine, o.path()))
            }
            Val::List(sig, items) => Val::List(
                sig,
                items.into_iter().map(|v| self.outward(cx, v)).collect(),
            ),
            Val::Struct(fields) => {
                Val::Struct(fields.into_iter().map(|v| self.outward(cx, v)).collect())
            }
            other => other,
        }
    }

    fn inward(&self, val: &Val) -> Val {
        let prefix = format!("/VM/{}", self.machine.simple());
        match val {
            Val::Obj(o) => match o.path().strip_prefix(&prefix) {
                Some(inner) if inner.starts_with('/') => Val::Obj(ObjRef::new(inner)),
                _ => Val::Obj(o.clone()),
            },
            Val::List(sig, items) => Val::List(sig, items.iter().map(|v| self.inward(v)).collect()),
            other => other.clone(),
        }
    }

    /// A progress of the service for one of a VM process that is about to end: it is still there
    /// to be asked when the process is not, and completes when the machine can be locked again.
    fn mirror(&self, cx: &Call, vm: &Arc<Peer>, progress: &ObjRef) -> ObjRef {
        let remote = client::Progress::from_proxy(Proxy::new(vm.clone(), progress.clone()));
        let description = remote.description().unwrap_or_default();
        let (svc, machine) = (self.svc.clone(), self.machine);
        let local = Progress::spawn(description, false, move |local| {
            let result = loop {
                if let Err(e) = remote.wait_for_completion(500) {
                    break Err(e);
                }
                match remote.completed() {
                    Ok(false) => local.set_percent(remote.percent().unwrap_or(0)),
                    Ok(true) => break remote.finish(),
                    Err(e) => break Err(e),
                }
            };
            let lost = result
                .as_ref()
                .is_err_and(|e| e.code == ResultCode::NS_ERROR_CALL_FAILED);
            if result.is_err() && !lost {
                return result;
            }
            // The process has a moment to go; it may wait for this reference to be given back.
            drop(remote);
            for _ in 0..500 {
                let state = svc.with(|s| s.machine(machine).map(|e| (e.vm.is_some(), e.state)))?;
                match state {
                    (true, _) => std::thread::sleep(Duration::from_millis(10)),
                    (false, MachineState::Aborted) => return result,
                    (false, _) => return Ok(()),
                }
            }
            result
        });
        self.svc.track(&local);
        cx.export(local)
    }

    fn release(&self, cx: &Call) {
        let mut held = lock(&self.svc.forwarded);
        let Some(of_client) = held.get_mut(&cx.peer.id()) else {
            return;
        };
        let key = (self.machine, self.path.clone());
        if let Some(count) = of_client.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                of_client.remove(&key);
            }
        }
    }
}

impl Object for Forwarded {
    fn interfaces(&self) -> Vec<&'static Interface> {
        Vec::new()
    }

    fn dispatch(
        &self,
        interface: &str,
        _cx: &Call,
        op: Op<'_>,
        _args: Args,
    ) -> api::Result<Vec<Val>> {
        Err(Error::not_implemented(interface, op.member()))
    }

    fn forward(
        &self,
        cx: &Call,
        interface: &str,
        member: &str,
        args: &[Val],
    ) -> Option<api::Result<Vec<Val>>> {
        if member == "registerListener" && args.last() == Some(&Val::Bool(true)) {
            let text = "Active listeners on a running machine are not implemented in this version of Oxbox; use a passive one";
            return Some(Err(Error::new(ResultCode::E_NOTIMPL, text)));
        }
        if member == "release" {
            self.release(cx);
        }
        let vm = self
            .svc
            .with(|state| state.machine(self.machine).ok().and_then(|e| e.vm.clone()));
        let Some(vm) = vm else {
            let text = "The virtual machine is not powered up";
            return Some(Err(Error::new(ResultCode::VBOX_E_INVALID_VM_STATE, text)));
        };
        let args = args.iter().map(|v| self.inward(v)).collect();
        let result = vm.call_raw(&self.path, interface, member, args);
        if let (Ok([Val::Obj(progress)]), true) = (result.as_deref(), ENDING.contains(&member)) {
            return Some(Ok(vec![Val::Obj(self.mirror(cx, &vm, progress))]));
        }
        Some(result.map(|vals| vals.into_iter().map(|v| self.outward(cx, v)).collect()))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Whether ending the service now would leave a machine without anyone to notice its end.
pub fn machines_run(svc: &Svc) -> bool {
    svc.with(|state| {
        state
            .machines
            .iter()
            .any(|e| e.vm.is_some() || is_running(e.state))
    })
}
