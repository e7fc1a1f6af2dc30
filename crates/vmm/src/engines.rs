//! Which engine runs a vCPU.

use std::sync::Arc;

use cpu::{Bus, Engine};
use hwaccm::Probed;
use pdm::cfgm::Node;
use pgm::PhysMap;

use crate::Error;

/// Environment variable that overrides `EM/ForceEngine`: `rem` or `kvm`.
const FORCE: &str = "OXBOX_ENGINE";

/// What the configuration wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// The hardware engine where all of it works, otherwise the software engine.
    Auto,
    /// The software engine.
    Rem,
    /// The hardware engine; what it cannot do still goes on in the software engine.
    Kvm,
}

impl EngineChoice {
    /// Reads `EM/ForceEngine` (`rem`, `kvm`, or empty), which the environment overrides, and
    /// `HWACCM/Enabled`. Also gives the reason, for the log.
    pub(crate) fn from_config(config: &Node) -> Result<(Self, &'static str), Error> {
        let forced = match std::env::var(FORCE) {
            Ok(name) if !name.is_empty() => name,
            _ => config
                .child("EM")
                .map_or_else(String::new, |em| em.str("ForceEngine", "")),
        };
        let enabled = match config.child("HWACCM") {
            Some(node) => node.bool("Enabled", true)?,
            None => true,
        };
        match forced.as_str() {
            "rem" => Ok((Self::Rem, "forced")),
            "kvm" => Ok((Self::Kvm, "forced")),
            "" if !enabled => Ok((Self::Rem, "the machine's settings switch HWACCM off")),
            "" => Ok((Self::Auto, "")),
            other => Err(Error::Config(pdm::Error::Config {
                key: "EM/ForceEngine".into(),
                reason: format!("'{other}' is not 'rem' or 'kvm'"),
            })),
        }
    }
}

/// The engines of one VM.
pub(crate) struct Engines {
    kvm: Option<Arc<hwaccm::Vm>>,
    /// The software engines.
    peers: Arc<rem::Peers>,
    /// What all of them get.
    options: rem::Options,
}

impl Engines {
    /// Picks engines for a machine over `phys`, and says why in the log.
    pub fn choose(config: &Node, phys: &Arc<PhysMap>) -> Result<Self, Error> {
        let (choice, reason) = EngineChoice::from_config(config)?;
        let options = options(config)?;
        let kvm = match choice {
            EngineChoice::Rem => Err(reason.to_owned()),
            EngineChoice::Kvm => Ok(probe(phys).map_err(|e| Error::NoEngine(e.to_string()))?),
            EngineChoice::Auto => probe(phys).map_err(|e| e.to_string()),
        };
        match kvm {
            // Such a host emulates the guest's kernel mode, and far slower than REM does.
            Ok((_, Probed::Partial(what))) if choice == EngineChoice::Auto => {
                tracing::info!(
                    target: "EM",
                    "the software engine (REM) runs this machine: KVM here is incomplete: {what}"
                );
                Ok(Self::with(None, options))
            }
            Ok((vm, probed)) => {
                tracing::info!(target: "EM", "the hardware engine (HWACCM, KVM) runs this machine");
                if let Probed::Partial(what) = probed {
                    tracing::info!(
                        target: "HWACCM",
                        "this KVM is incomplete, REM stands by: {what}"
                    );
                }
                Ok(Self::with(Some(vm), options))
            }
            Err(why) => {
                tracing::info!(
                    target: "EM",
                    "the software engine (REM) runs this machine: {why}"
                );
                Ok(Self::with(None, options))
            }
        }
    }

    fn with(kvm: Option<Arc<hwaccm::Vm>>, options: rem::Options) -> Self {
        Self {
            kvm,
            options,
            peers: rem::Peers::new(),
        }
    }

    /// CPUID leaves that the hardware engine can show; `None` without it.
    pub fn cpuid_limit(&self) -> Option<Vec<crate::cpum::Row>> {
        let vm = self.kvm.as_ref()?;
        match vm.supported_cpuid() {
            Ok(rows) => Some(rows),
            Err(e) => {
                tracing::warn!(target: "HWACCM", "{e}");
                None
            }
        }
    }

    /// The engine to start vCPU `cpu` with.
    pub fn first(
        &self,
        cpu: usize,
        phys: &Arc<PhysMap>,
        bus: Arc<dyn Bus>,
    ) -> Result<Box<dyn Engine>, Error> {
        let Some(vm) = &self.kvm else {
            return self.rem(cpu, phys, bus);
        };
        match hwaccm::Kvm::new(cpu, vm, bus.clone()) {
            Ok(engine) => Ok(Box::new(engine)),
            Err(e) => {
                tracing::warn!(target: "EM", "vCPU {cpu} goes to the software engine: {e}");
                self.rem(cpu, phys, bus)
            }
        }
    }

    /// The engine to go on with when `old` could not.
    pub fn next(
        &self,
        old: &dyn Engine,
        cpu: usize,
        phys: &Arc<PhysMap>,
        bus: Arc<dyn Bus>,
    ) -> Result<Box<dyn Engine>, Error> {
        if old.name() != "HWACCM" {
            return Err(Error::NoEngine("it was the software engine already".into()));
        }
        self.rem(cpu, phys, bus)
    }

    fn rem(
        &self,
        cpu: usize,
        phys: &Arc<PhysMap>,
        bus: Arc<dyn Bus>,
    ) -> Result<Box<dyn Engine>, Error> {
        rem::Rem::with_peers(cpu, phys.clone(), bus, self.peers.clone(), self.options)
            .map_err(|e| Error::NoEngine(e.to_string()))
    }
}

/// `REM/CodeCacheMiB`, and `REM/Windows` and `REM/Checks`: 0 never, 1 where it pays, 2 always.
fn options(config: &Node) -> Result<rem::Options, Error> {
    let mut options = rem::Options::default();
    let Some(rem) = config.child("REM") else {
        return Ok(options);
    };
    let (least, most) = (rem::CODE_CACHE_RANGE.start(), rem::CODE_CACHE_RANGE.end());
    let range = (least >> 20) as u64..=(most >> 20) as u64;
    let mib = rem.int_in("CodeCacheMiB", (rem::CODE_CACHE >> 20) as u64, range)?;
    options.code_cache = (mib as usize) << 20;
    options.windows = match rem.int_in("Windows", 1, 0..=2)? {
        0 => rem::Windows::Never,
        1 => rem::Windows::Auto,
        _ => rem::Windows::Always,
    };
    options.checks = match rem.int_in("Checks", 1, 0..=2)? {
        0 => rem::Checks::Never,
        1 => rem::Checks::Auto,
        _ => rem::Checks::Always,
    };
    Ok(options)
}

/// Whether KVM works here, and a virtual machine of it.
fn probe(phys: &Arc<PhysMap>) -> Result<(Arc<hwaccm::Vm>, Probed), hwaccm::Error> {
    let probed = hwaccm::probe()?;
    Ok((hwaccm::Vm::new(phys.clone(), probed.clone())?, probed))
}
