//! What is wrong with a file, said at its place.

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// The largest workload file, in bytes. It is read no further than this.
pub const FILE_LIMIT: usize = 1024 * 1024;

/// The most findings reported of one file; a file with more is not the kind of file it is read as, and the
/// rest is left out.
pub const FINDINGS_LIMIT: usize = 50;

/// Why a workload file cannot be used. `Display` is one line; miette renders the picture.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be opened or read.
    #[error("cannot read {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// More than [`FILE_LIMIT`] bytes.
    #[error("{name} is larger than a workload file may be (1 MiB)")]
    TooLarge {
        /// The file.
        name: String,
    },
    /// Not UTF-8, which TOML demands.
    #[error("{name}:{line}:{column}: the byte 0x{byte:02x} is not UTF-8")]
    Encoding {
        /// The file.
        name: String,
        /// The line of the first wrong byte, from 1.
        line: usize,
        /// Its column in characters, from 1.
        column: usize,
        /// The byte.
        byte: u8,
    },
    /// Read, but wrong: everything found.
    #[error("{0}")]
    Invalid(Invalid),
}

impl ReadError {
    /// Everything that is wrong inside the file; empty when it could not be read as text.
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Invalid(Invalid(findings)) => findings,
            Self::Open { .. } | Self::TooLarge { .. } | Self::Encoding { .. } => &[],
        }
    }
}

impl Diagnostic for ReadError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        match self {
            Self::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some(Box::new("`mainstay run -- COMMAND` needs no file"))
            }
            Self::Open { .. } => None,
            Self::TooLarge { .. } => Some(Box::new("is this the right file?")),
            Self::Encoding { .. } => Some(Box::new("save the file as UTF-8")),
            Self::Invalid(invalid) => invalid.first().help(),
        }
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.findings().first().and_then(Diagnostic::source_code)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.findings().first().and_then(Diagnostic::labels)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        let rest = self.findings().get(1..).filter(|rest| !rest.is_empty())?;
        Some(Box::new(rest.iter().map(|finding| finding as &dyn Diagnostic)))
    }
}

/// All findings of a file, in the order of their places. Never empty.
#[derive(Debug)]
pub struct Invalid(Vec<Finding>);

impl Invalid {
    fn first(&self) -> &Finding {
        self.0.first().expect("made only of at least one finding")
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first().fmt(f)?;
        match self.0.len() {
            1 => Ok(()),
            count => write!(f, " (and {} more)", count - 1),
        }
    }
}

/// One thing that is wrong with a file. `Display` is one line with file, line and column.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}:{line}:{column}: {message}", source_text.name())]
pub struct Finding {
    line: usize,
    column: usize,
    message: String,
    labels: Vec<LabeledSpan>,
    help: Option<String>,
    source_text: NamedSource<Arc<str>>,
}

impl Finding {
    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl Diagnostic for Finding {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source_text)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}

/// A finding on its way into [`Findings`].
pub(crate) struct Wrong {
    span: Range<usize>,
    message: String,
    label: String,
    others: Vec<(Range<usize>, String)>,
    help: Option<String>,
}

impl Wrong {
    /// `message` is about the bytes of the file in `span`.
    pub(crate) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), label: "here".to_owned(), others: Vec::new(), help: None }
    }

    /// The place.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// What to write under the place.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Another place that has to do with it.
    pub(crate) fn also(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.others.push((span, label.into()));
        self
    }

    /// What to do about it.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Collects what is wrong with one file.
pub(crate) struct Findings {
    source: NamedSource<Arc<str>>,
    /// What was said where: every environment is checked by itself, and what they share is said once.
    seen: BTreeSet<(usize, usize, String)>,
    list: Vec<(usize, Finding)>,
}

impl Findings {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let source = NamedSource::new(name, Arc::from(text)).with_language("TOML");
        Self { source, seen: BTreeSet::new(), list: Vec::new() }
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> &str {
        self.source.inner()
    }

    /// Adds a finding, unless the same was said of the same place.
    pub(crate) fn add(&mut self, wrong: Wrong) {
        let key = (wrong.span.start, wrong.span.end, wrong.message.clone());
        if self.list.len() >= FINDINGS_LIMIT || !self.seen.insert(key) {
            return;
        }
        let (line, column) = position(self.text().as_bytes(), wrong.span.start);
        let primary = LabeledSpan::new_primary_with_span(Some(wrong.label), wrong.span.clone());
        let others =
            wrong.others.into_iter().map(|(span, label)| LabeledSpan::new_with_span(Some(label), span));
        let finding = Finding {
            line,
            column,
            message: wrong.message,
            labels: std::iter::once(primary).chain(others).collect(),
            help: wrong.help,
            source_text: self.source.clone(),
        };
        self.list.push((wrong.span.start, finding));
    }

    /// Whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Everything found, by place; None when nothing was.
    pub(crate) fn into_error(mut self) -> Option<ReadError> {
        self.list.sort_by_key(|(start, _)| *start);
        let findings: Vec<_> = self.list.into_iter().map(|(_, finding)| finding).collect();
        (!findings.is_empty()).then_some(ReadError::Invalid(Invalid(findings)))
    }
}

/// Line and column, both from 1, of a byte. The column counts characters.
pub(crate) fn position(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = &bytes[..at.min(bytes.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
}
