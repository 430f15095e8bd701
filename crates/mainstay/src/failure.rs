//! What goes wrong, as it is shown: what failed with the value seen, a hint, an exit code.

use crate::output::to_stderr;
use api::client::CallError;
use api::problem::{Code, Problem};
use std::io::Write as _;
use std::process::ExitCode;

/// The exit codes, as documented in `mainstay --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A verdict is not pass: a release was refused or taken back, an objective missed.
    Verdict,
    /// The command line or the workload file is wrong.
    Usage,
    /// The state of the environment does not allow it now.
    Conflict,
    /// The environment is not up, or does not answer.
    NotUp,
    /// The machine refused: a port in use, a full disk, a state folder of a newer version.
    Machine,
}

impl Exit {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Verdict => 1,
            Self::Usage => 2,
            Self::Conflict => 3,
            Self::NotUp => 4,
            Self::Machine => 5,
        }
    }

    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(self.number())
    }

    pub(crate) fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Verdict,
            2 => Self::Usage,
            3 => Self::Conflict,
            4 => Self::NotUp,
            _ => Self::Machine,
        }
    }
}

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
    /// The same with a picture of the place in the file, for people.
    picture: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, picture: None }
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn machine(message: impl Into<String>) -> Self {
        Self::new(Exit::Machine, message)
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with something that is to be known besides.
    #[must_use]
    pub(crate) fn besides(mut self, what: impl AsRef<str>) -> Self {
        self.message = format!("{}; {}", self.message, what.as_ref());
        self
    }

    #[must_use]
    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = self.hint.or(hint);
        self
    }

    /// Shows it: on standard error for people, on standard output as JSON for programs.
    pub(crate) fn print(&self, json: bool) -> ExitCode {
        if json {
            let error = serde_json::json!({
                "message": self.message, "hint": self.hint, "exit": self.exit.number(),
            });
            let _ = writeln!(std::io::stdout(), "{}", serde_json::json!({ "error": error }));
        } else {
            match &self.picture {
                Some(picture) => to_stderr(picture),
                None => to_stderr(&format!("error: {}", self.message)),
            }
            if let Some(hint) = &self.hint {
                to_stderr(&format!("hint: {hint}"));
            }
        }
        self.exit.code()
    }

    /// The same as the line a keeper reports to the command that started it.
    pub(crate) fn report(&self) -> String {
        serde_json::json!({ "message": self.message, "hint": self.hint, "exit": self.exit.number() })
            .to_string()
    }
}

impl From<workfile::ReadError> for Failure {
    fn from(error: workfile::ReadError) -> Self {
        let message = error.to_string();
        let picture = format!("{:?}", miette::Report::new(error));
        Self { exit: Exit::Usage, message, hint: None, picture: Some(picture) }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match problem.code {
            Code::BadRequest => Exit::Usage,
            Code::Conflict | Code::Fenced => Exit::Conflict,
            Code::Machine | Code::Version => Exit::Machine,
        };
        Self::new(exit, problem.message).maybe_hint(problem.hint)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(problem) => problem.into(),
            error @ (CallError::NotThere { .. } | CallError::NoAnswer { .. }) => {
                Self::new(Exit::NotUp, error.to_string())
            }
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::machine(error.to_string())
    }
}
