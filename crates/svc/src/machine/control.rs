//! Starting VM processes, and what they report.

use super::MachineObject;
use crate::conv::invalid;
use crate::forward;
use crate::session::{self, Session};
use crate::state::{Launch, Svc, is_running, now};
use api::progress::Progress;
use api::types::*;
use api::{Call, Error, Val, Wire, server};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use uuid::Uuid;

impl MachineObject {
    /// `launchVMProcess`.
    pub(super) fn launch(
        &self,
        session: &Arc<Session>,
        frontend: &str,
        environment: &[String],
    ) -> api::Result<Arc<Progress>> {
        if session.machine().is_some() {
            return Err(session::busy());
        }
        let id = self.0.id;
        session::let_go(&self.0.svc, id);
        let settings = self.0.svc.with(|state| {
            let idle = state.machine(id)?;
            if !is_running(idle.state) && idle.registered {
                super::snapshots::settle(state, id)?;
            }
            let entry = state.machine(id)?;
            let settings = entry.settings()?;
            if !entry.registered {
                let text = format!("The machine '{}' is not registered", settings.name);
                return Err(Error::new(ResultCode::E_UNEXPECTED, text));
            }
            if entry.session_state != SessionState::Unlocked || is_running(entry.state) {
                return Err(session::locked(entry));
            }
            if settings.hardware.architecture != settings::model::Architecture::X86 {
                let text = format!(
                    "The machine '{}' has an ARM processor, which this host cannot run",
                    settings.name
                );
                return Err(Error::new(ResultCode::VBOX_E_NOT_SUPPORTED, text));
            }
            Ok(settings.clone())
        })?;
        let frontend = match frontend {
            "" if settings.hardware.default_frontend.is_empty() => "headless",
            "" => settings.hardware.default_frontend.as_str(),
            given => given,
        };
        if frontend != "headless" {
            return Err(match frontend {
                "gui" | "sdl" | "separate" => Error::new(
                    ResultCode::E_NOTIMPL,
                    format!(
                        "The front end '{frontend}' is not part of this version of Oxbox; use 'headless'"
                    ),
                ),
                _ => invalid(format!("Invalid frontend name: '{frontend}'")),
            });
        }
        let mut command = Command::new(api::connect::executable("VBoxHeadless")?);
        command.args(["--comment", &settings.name, "--startvm", &id.to_string()]);
        for change in environment {
            match change.split_once('=') {
                Some((name, value)) if !name.is_empty() => command.env(name, value),
                None if !change.is_empty() => command.env_remove(change),
                _ => return Err(invalid(format!("Invalid environment change '{change}'"))),
            };
        }
        command.env("VBOX_USER_HOME", &self.0.svc.home);
        // A file, not a pipe: the guest goes on when this process is no more.
        let words = self.0.svc.runtime.join(format!("err-{id}"));
        let stderr = std::fs::File::create(&words)
            .map_err(|e| crate::conv::file_error(format!("'{}': {e}", words.display())))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        // Its own group: a signal to the service's terminal must not end guests.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let progress = Progress::new(
            format!(
                "Creating process for virtual machine \"{}\" ({frontend})",
                settings.name
            ),
            false,
        );
        // The child may lock the machine before anything else happens here: enter it first.
        let child = self.0.svc.with(|state| {
            let entry = state.machine_mut(id)?;
            if entry.session_state != SessionState::Unlocked {
                return Err(session::locked(entry));
            }
            let child = command.spawn().map_err(|e| {
                let text = format!(
                    "Could not launch the VM process for the machine '{}': {e}",
                    entry.name()
                );
                Error::new(ResultCode::VBOX_E_IPRT_ERROR, text)
            })?;
            entry.session_state = SessionState::Spawning;
            entry.session_name = frontend.to_owned();
            entry.vm_pid = child.id();
            entry.launch = Some(Launch {
                progress: progress.clone(),
                session: Arc::downgrade(session),
                pid: child.id(),
            });
            Ok(child)
        })?;
        self.0.svc.fire_session(id, SessionState::Spawning);
        self.0.svc.track(&progress);
        watch(self.0.svc.clone(), id, child, words);
        Ok(progress)
    }
}

/// Waits for the VM process's end on a thread of its own, and tells whoever waits for its start.
fn watch(svc: Arc<Svc>, id: Uuid, mut child: Child, words: PathBuf) {
    let pid = child.id();
    let watcher = move || {
        let status = child.wait();
        // What the process said before it had a log of its own explains an early end.
        let said = std::fs::read(&words).unwrap_or_default();
        let _ = std::fs::remove_file(&words);
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(4096)..]);
        ended(&svc, id, pid, status.ok(), said.trim());
    };
    if let Err(e) = std::thread::Builder::new()
        .name("vm-watch".into())
        .spawn(watcher)
    {
        tracing::error!("no thread to wait for the VM process {pid}: {e}");
    }
}

fn ended(svc: &Arc<Svc>, id: Uuid, pid: u32, status: Option<std::process::ExitStatus>, said: &str) {
    let launch = svc.with(|state| {
        let entry = state.machine_mut(id).ok()?;
        let launch = entry.launch.take_if(|l| l.pid == pid)?;
        if entry.session_state == SessionState::Spawning {
            entry.session_state = SessionState::Unlocked;
            entry.session_name.clear();
            entry.vm_pid = 0;
        }
        Some((launch, entry.name(), entry.session_state))
    });
    let Some((launch, name, session)) = launch else {
        return;
    };
    use std::os::unix::process::ExitStatusExt;
    let how = match status {
        Some(s) if s.signal().is_some() => {
            format!("because of signal {}", s.signal().unwrap_or(0))
        }
        Some(s) => {
            let code = s.code().unwrap_or(-1);
            format!("with exit code {code} (0x{code:x})")
        }
        None => "without a status".to_owned(),
    };
    let mut text =
        format!("The virtual machine '{name}' has terminated unexpectedly during startup {how}");
    if !said.is_empty() {
        text = format!("{text}.\n{said}");
    }
    launch
        .progress
        .complete(Err(Error::new(ResultCode::NS_ERROR_FAILURE, text)));
    svc.fire_session(id, session);
}

impl MachineObject {
    /// Only the VM process itself may report for its machine.
    fn check_vm(&self, cx: &Call) -> api::Result<()> {
        let allowed = self.0.entry(|e| {
            let by_link = e.vm.as_ref().is_some_and(|vm| vm.id() == cx.peer.id());
            let owner = e
                .owner
                .as_ref()
                .and_then(|(s, kind)| Some((s.upgrade()?, *kind)));
            let by_lock =
                owner.is_some_and(|(s, kind)| kind == LockType::VM && s.peer == cx.peer.id());
            Ok(by_link || by_lock)
        })?;
        if allowed {
            return Ok(());
        }
        let text = "Only the machine's VM process may do this";
        Err(Error::new(ResultCode::E_ACCESSDENIED, text))
    }
}

impl server::IInternalMachineControl for MachineObject {
    fn attach_vm_process(&self, cx: &Call) -> api::Result<()> {
        self.check_vm(cx)?;
        forward::attach(&self.0.svc, self.0.id)
    }

    fn update_state(&self, cx: &Call, state: MachineState) -> api::Result<()> {
        self.check_vm(cx)?;
        self.0.entry(|e| {
            e.state = state;
            e.since = now();
            let since = iprt::time::Timestamp::from_unix(e.since / 1000);
            if let Ok(settings) = e.settings_mut() {
                settings.last_state_change = since;
                if is_running(state) {
                    settings.aborted = false;
                    settings.current_state_modified = true;
                }
            }
            if let Some(pending) = &mut e.pending {
                pending.last_state_change = since;
                pending.aborted &= !is_running(state);
                pending.current_state_modified |= is_running(state);
            }
            if !is_running(state) {
                super::info::keep_guest_properties(e);
            }
            // The file tells how the machine was left; while it runs there is nothing to tell.
            if is_running(state) { Ok(()) } else { e.save() }
        })?;
        self.0.svc.fire_state(self.0.id, state);
        Ok(())
    }

    fn end_power_up(&self, cx: &Call, result: i32, text: String) -> api::Result<()> {
        self.check_vm(cx)?;
        let launch = self.0.entry(|e| Ok(e.launch.take()))?;
        if let Some(launch) = launch {
            launch.progress.complete(match result {
                0.. => Ok(()),
                code => Err(Error::new(ResultCode(code.cast_unsigned()), text)),
            });
        }
        Ok(())
    }

    fn push_guest_property(
        &self,
        cx: &Call,
        name: String,
        value: String,
        timestamp: i64,
        flags: String,
    ) -> api::Result<()> {
        self.check_vm(cx)?;
        let session = crate::view::View {
            mutable: true,
            ..self.0.clone()
        };
        let timestamp = u64::try_from(timestamp).ok();
        Self(session).change_guest_property(&name, &value, Some(&flags), timestamp)
    }

    fn eject_medium(
        &self,
        cx: &Call,
        controller: String,
        port: i32,
        device: i32,
    ) -> api::Result<()> {
        self.check_vm(cx)?;
        let session = Self(crate::view::View {
            mutable: true,
            ..self.0.clone()
        });
        session.device(crate::view::When::Any, &controller, port, device, |d| {
            if !d.temp_eject {
                d.medium = settings::model::AttachedMedium::None;
            }
        })
    }

    fn report_runtime_error(
        &self,
        cx: &Call,
        fatal: bool,
        id: String,
        message: String,
    ) -> api::Result<()> {
        self.check_vm(cx)?;
        tracing::warn!("machine {}: {id}: {message}", self.0.id);
        self.0.svc.fire(
            VBoxEventType::OnRuntimeError,
            vec![
                ("fatal", Val::Bool(fatal)),
                ("id", id.into_val()),
                ("message", message.into_val()),
            ],
        );
        Ok(())
    }
}
