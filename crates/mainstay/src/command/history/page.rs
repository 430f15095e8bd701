//! The history of a release as one HTML page with plots.

use api::operator::{History, Status};

/// The page. It needs nothing else to be read.
pub(crate) fn page(status: &Status, history: &History) -> String {
    let _ = (status, history);
    String::new()
}
