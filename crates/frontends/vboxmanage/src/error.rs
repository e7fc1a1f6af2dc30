//! What a command can fail with, and how VirtualBox words it on standard error.
//!
//! Every line starts with `VBoxManage: error: `. An error of an API call is followed by a
//! `Details:` line with its code and where it came from, and a `Context:` line with the call and
//! the place in this program. Exit codes: 1 for a failure, 2 for a wrong command line.

use std::io::{self, Write};
use std::panic::Location;

/// Exit code of a command that failed.
pub const FAILURE: u8 = 1;
/// Exit code of a wrong command line.
pub const SYNTAX: u8 = 2;

#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong; the command's usage follows the text.
    Syntax(String),
    /// Anything that is no API error; one prefix per line.
    Message(String),
    /// An API call failed.
    Api(Box<ApiFailure>),
    /// Help was asked for in the middle of a command line.
    Help,
    /// Whatever there was to say has been said.
    Silent(u8),
}

#[derive(Debug)]
pub struct ApiFailure {
    /// What this program wanted, when that says more than the error alone.
    pub wanted: Option<String>,
    pub error: api::Error,
    /// The call; the command's name when it was not noted.
    pub call: Option<String>,
    at: &'static Location<'static>,
}

pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub fn syntax(text: impl Into<String>) -> Self {
        Self::Syntax(text.into())
    }

    pub fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    /// The result code, when it was the API that failed.
    pub fn code(&self) -> Option<api::ResultCode> {
        match self {
            Self::Api(failure) => Some(failure.error.code),
            _ => None,
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Syntax(_) => SYNTAX,
            Self::Message(_) | Self::Api(_) => FAILURE,
            Self::Silent(code) => *code,
            Self::Help => 0,
        }
    }

    /// Prints it; `command` stands for the call where none was noted.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn print(&self, command: &str, err: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Syntax(text) | Self::Message(text) => lines(err, text),
            Self::Api(failure) => failure.print(command, err),
            Self::Silent(_) | Self::Help => Ok(()),
        }
    }
}

impl ApiFailure {
    fn print(&self, command: &str, err: &mut dyn Write) -> io::Result<()> {
        let error = &self.error;
        if let Some(wanted) = &self.wanted {
            lines(err, wanted)?;
        }
        let code = format!("{} (0x{:08x})", error.code, error.code.0);
        if error.component.is_empty() && error.interface.is_empty() {
            let text = if error.text.is_empty() {
                "no text"
            } else {
                &error.text
            };
            lines(
                err,
                &format!("Code {code} - {text} (extended info not available)"),
            )?;
        } else {
            if !error.text.is_empty() {
                lines(err, &error.text)?;
            }
            let mut details = format!("Details: code {code}");
            for (what, value) in [
                ("component", error.component.as_str()),
                ("interface", error.interface.as_str()),
                ("callee", "nsISupports"),
            ] {
                if !value.is_empty() {
                    details.push_str(&format!(", {what} {value}"));
                }
            }
            lines(err, &details)?;
        }
        let file = self.at.file().rsplit('/').next().unwrap_or_default();
        let call = self.call.as_deref().unwrap_or(command);
        lines(
            err,
            &format!(
                "Context: \"{call}\" at line {} of file {file}",
                self.at.line()
            ),
        )
    }
}

/// Each line with its own prefix.
fn lines(err: &mut dyn Write, text: &str) -> io::Result<()> {
    for line in text.lines() {
        writeln!(err, "VBoxManage: error: {line}")?;
    }
    Ok(())
}

impl From<api::Error> for Failure {
    #[track_caller]
    fn from(error: api::Error) -> Self {
        Self::Api(Box::new(ApiFailure {
            wanted: None,
            error,
            call: None,
            at: Location::caller(),
        }))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Whoever read our output has seen enough.
            io::ErrorKind::BrokenPipe => Self::Silent(0),
            _ => Self::Message(format!("Cannot write the output: {error}")),
        }
    }
}

/// Notes the call that failed, as VirtualBox's `Context:` line shows it.
pub trait During<T> {
    #[track_caller]
    fn during(self, call: &str) -> Result<T>;
    /// As [`During::during`], with a line before the error that says what was wanted.
    #[track_caller]
    fn wanted(self, wanted: &str, call: &str) -> Result<T>;
}

impl<T> During<T> for api::Result<T> {
    #[track_caller]
    fn during(self, call: &str) -> Result<T> {
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(Failure::Api(Box::new(ApiFailure {
                wanted: None,
                error,
                call: Some(call.to_owned()),
                at: Location::caller(),
            }))),
        }
    }

    #[track_caller]
    fn wanted(self, wanted: &str, call: &str) -> Result<T> {
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(Failure::Api(Box::new(ApiFailure {
                wanted: Some(wanted.to_owned()),
                error,
                call: Some(call.to_owned()),
                at: Location::caller(),
            }))),
        }
    }
}

/// `None` for what this version of the service does not answer, so that a listing can go on.
pub fn known<T>(result: api::Result<T>) -> api::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.code == api::ResultCode::E_NOTIMPL => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ResultCode;

    fn printed(failure: &Failure) -> String {
        let mut out = Vec::new();
        failure.print("VBoxManage test", &mut out).expect("memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn an_api_error_has_details_and_context() {
        let error = api::Error::new(
            ResultCode::VBOX_E_OBJECT_NOT_FOUND,
            "Could not find a registered machine named 'x'",
        )
        .from_interface("IVirtualBox");
        let failure = Err::<(), _>(error)
            .during("FindMachine(Bstr(VMNameOrUuid).raw(), machine.asOutParam())")
            .expect_err("it is one");
        let text = printed(&failure);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "VBoxManage: error: Could not find a registered machine named 'x'"
        );
        assert_eq!(
            lines[1],
            "VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component VirtualBoxWrap, interface IVirtualBox, callee nsISupports"
        );
        assert!(lines[2].starts_with("VBoxManage: error: Context: \"FindMachine(Bstr(VMNameOrUuid).raw(), machine.asOutParam())\" at line "), "{text}");
        assert!(lines[2].ends_with(" of file error.rs"), "{text}");
        assert_eq!(lines.len(), 3);
        assert_eq!(failure.exit_code(), 1);
    }

    #[test]
    fn the_question_mark_notes_the_place() {
        fn fails() -> Result {
            Err(api::Error::not_implemented("IMachine", "x"))?;
            Ok(())
        }
        let text = printed(&fails().expect_err("it is one"));
        assert!(
            text.contains("Context: \"VBoxManage test\" at line "),
            "{text}"
        );
        assert!(text.contains(" of file error.rs"), "{text}");
    }

    #[test]
    fn every_line_of_a_message_has_the_prefix() {
        assert_eq!(
            printed(&Failure::message("one\ntwo")),
            "VBoxManage: error: one\nVBoxManage: error: two\n"
        );
    }

    #[test]
    fn an_error_without_origin_says_so() {
        let failure = Failure::from(api::Error::connection("gone"));
        assert!(printed(&failure).starts_with(
            "VBoxManage: error: Code NS_ERROR_CALL_FAILED (0x800706be) - the connection failed: gone (extended info not available)\n"
        ));
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit_code(), 0);
        assert_eq!(printed(&failure), "");
    }
}
