//! The error of every API call: result code, text, component and interface, as
//! `IVirtualBoxErrorInfo` has them.

pub use crate::generated::types::ResultCode;
use std::fmt;

/// What went wrong in a call, at this or the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub code: ResultCode,
    /// One or more sentences for people.
    pub text: String,
    /// The API object's class, such as `MachineWrap`; empty when unknown.
    pub component: String,
    /// The interface called, such as `IMachine`; empty when unknown.
    pub interface: String,
}

/// The result of every API call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(code: ResultCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            component: String::new(),
            interface: String::new(),
        }
    }

    /// `E_NOTIMPL`, naming the member that has no room yet.
    pub fn not_implemented(interface: &str, member: &str) -> Self {
        Self::new(
            ResultCode::E_NOTIMPL,
            format!("{interface}::{member} is not implemented in this version of Oxbox"),
        )
        .from_interface(interface)
    }

    /// The peer is gone or does not speak this protocol.
    pub fn connection(text: impl fmt::Display) -> Self {
        Self::new(
            ResultCode::NS_ERROR_CALL_FAILED,
            format!("the connection failed: {text}"),
        )
    }

    /// Fills in interface and component unless they are known already.
    #[must_use]
    pub fn from_interface(mut self, interface: &str) -> Self {
        if self.interface.is_empty() {
            interface.clone_into(&mut self.interface);
        }
        if self.component.is_empty() {
            self.component = format!("{}Wrap", interface.strip_prefix('I').unwrap_or(interface));
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            write!(f, "{} (0x{:08x})", self.code.name(), self.code.0)
        } else {
            f.write_str(&self.text)
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "" => write!(f, "0x{:08x}", self.0),
            name => f.write_str(name),
        }
    }
}
