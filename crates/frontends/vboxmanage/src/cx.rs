//! What a command works with: where its output goes, and the service, connected when first asked
//! for so that `--version` and usage errors work without it.

use crate::error::{During, Failure, Result};
use api::client::{Console, Machine, Session, VirtualBox};
use api::connect::Client;
use api::types::LockType;
use std::io::Write;
use std::path::Path;

pub struct Cx<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    /// `--detailed-progress`.
    pub detailed: bool,
    client: Option<Client>,
}

impl<'a> Cx<'a> {
    pub fn new(out: &'a mut dyn Write, err: &'a mut dyn Write) -> Self {
        Self {
            out,
            err,
            detailed: false,
            client: None,
        }
    }

    pub fn client(&mut self) -> Result<&Client> {
        // The user's own service is nothing to test with.
        if cfg!(test) {
            return Err(Failure::message("no service in unit tests"));
        }
        if self.client.is_none() {
            let client = Client::connect().map_err(|e| {
                let mut text = format!("Failed to create the VirtualBox object!\n{e}");
                if e.code == api::ResultCode::NS_ERROR_FAILURE {
                    text.push_str("\nMost likely, VBoxSVC is not running or failed to start.");
                }
                Failure::message(text)
            })?;
            self.client = Some(client);
        }
        match &self.client {
            Some(client) => Ok(client),
            None => Err(Failure::message("No connection to VBoxSVC")),
        }
    }

    pub fn vbox(&mut self) -> Result<VirtualBox> {
        Ok(self.client()?.virtualbox())
    }

    pub fn machine(&mut self, name_or_uuid: &str) -> Result<Machine> {
        self.vbox()?
            .find_machine(name_or_uuid)
            .during("FindMachine(Bstr(VMNameOrUuid).raw(), machine.asOutParam())")
    }

    /// Locks a machine until the result is dropped.
    pub fn lock(&mut self, name_or_uuid: &str, kind: LockType) -> Result<Locked> {
        let machine = self.machine(name_or_uuid)?;
        self.lock_machine(&machine, kind)
    }

    pub fn lock_machine(&mut self, machine: &Machine, kind: LockType) -> Result<Locked> {
        let session = self.client()?.session()?;
        let call = match kind {
            LockType::Shared => "LockMachine(a->session, LockType_Shared)",
            _ => "LockMachine(a->session, LockType_Write)",
        };
        machine.lock_machine(&session, kind).during(call)?;
        let machine = session
            .machine()?
            .ok_or_else(|| Failure::message("The session lost its machine"))?;
        Ok(Locked { session, machine })
    }
}

/// A locked machine.
pub struct Locked {
    pub session: Session,
    /// The one that can be changed.
    pub machine: Machine,
}

impl Locked {
    /// The running machine's console.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn console(&self) -> Result<Console> {
        match self.session.console()? {
            Some(console) => Ok(console),
            None => Err(not_running(&self.machine)?),
        }
    }

    /// Writes the settings and gives the machine back.
    pub fn save(self) -> Result {
        self.machine.save_settings().during("SaveSettings()")?;
        self.unlock()
    }

    pub fn unlock(self) -> Result {
        Ok(self.session.unlock_machine()?)
    }
}

/// What VirtualBox says to a command that needs a running machine.
pub fn not_running(machine: &Machine) -> api::Result<Failure> {
    Ok(Failure::message(format!(
        "Machine '{}' is not currently running.",
        machine.name()?
    )))
}

/// A path as the service, whose folder is another, understands it.
pub fn absolute(path: &str) -> Result<String> {
    std::path::absolute(Path::new(path))
        .map(|p| p.to_string_lossy().into_owned())
        .map_err(|e| Failure::message(format!("Invalid path '{path}': {e}")))
}
