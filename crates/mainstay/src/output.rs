//! Data goes to standard output, everything else to standard error.

use std::io::{IsTerminal as _, Write as _};

/// Where a command shows what it does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// What is going on, for people. Silent with `--json`.
    pub(crate) fn say(self, text: impl AsRef<str>) {
        if !self.json {
            to_stderr(text.as_ref());
        }
    }

    /// What was asked for: `text` for people, `json` for programs, as one line.
    pub(crate) fn data(self, text: impl AsRef<str>, json: &serde_json::Value) {
        let line = if self.json { json.to_string() } else { text.as_ref().to_owned() };
        // A reader that has gone, such as `head`, is not an error of ours.
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    /// A command that comes next.
    pub(crate) fn next(self, commands: &[(&str, String)]) {
        if self.json {
            return;
        }
        let width = commands.iter().map(|(_, command)| command.len()).max().unwrap_or(0);
        to_stderr("");
        for (what, command) in commands {
            to_stderr(&format!("  {command:width$}   {what}"));
        }
    }

    /// A line that replaces the one before it on a terminal, and follows it elsewhere.
    pub(crate) fn progress(self, line: &str) {
        if self.json {
            return;
        }
        let mut error = std::io::stderr();
        let _ = if error.is_terminal() {
            write!(error, "\r\x1b[2K{line}").and_then(|()| error.flush())
        } else {
            writeln!(error, "{line}")
        };
    }

    /// Ends a line that was written by [`Output::progress`].
    pub(crate) fn progress_over(self) {
        if !self.json && std::io::stderr().is_terminal() {
            to_stderr("");
        }
    }

    /// Takes away a line that was written by [`Output::progress`], where that replaces lines.
    #[cfg(feature = "demo")]
    pub(crate) fn progress_gone(self) {
        let mut error = std::io::stderr();
        if !self.json && error.is_terminal() {
            // As in `to_stderr`.
            let _ = write!(error, "\r\x1b[2K").and_then(|()| error.flush());
        }
    }
}

/// A line on standard error. A reader that has gone, such as `head`, is not an error of ours.
pub(crate) fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
