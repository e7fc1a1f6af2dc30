//! Why the VM could not do something.

/// Errors of the VM object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration tree is missing or out of range.
    #[error("configuration: {0}")]
    Config(#[from] pdm::Error),
    /// Guest memory could not be had.
    #[error(transparent)]
    Memory(#[from] pgm::Error),
    /// A device of the configuration is not in this build.
    #[error("there is no device '{0}' in this build")]
    UnknownDevice(String),
    /// A device could not be built.
    #[error("device '{device}' #{instance}: {source}")]
    Device {
        /// CFGM name.
        device: String,
        /// Instance.
        instance: u32,
        /// The device's reason.
        #[source]
        source: pdm::Error,
    },
    /// The machine lacks something without which it cannot run.
    #[error("the machine has no {0}")]
    Incomplete(&'static str),
    /// No engine can run the machine.
    #[error("no engine can run this machine: {0}")]
    NoEngine(String),
    /// The VM is not in a state for this.
    #[error("cannot {what} a machine that is {state}")]
    State {
        /// What was asked.
        what: &'static str,
        /// State name in lower case.
        state: &'static str,
    },
    /// The VM's threads are gone.
    #[error("the machine has ended")]
    Ended,
    /// A saved state could not be written or read.
    #[error("saved state: {0}")]
    SavedState(String),
    /// The host refused a thread or file.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// `debugvm info` does not know the name.
    #[error("there is no information named '{0}'")]
    NoInfo(String),
}
