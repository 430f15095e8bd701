//! `queue export` and `queue import`: jobs as lines of JSON.

use super::{by_uid, must_serve, read};
use crate::environment::Found;
use crate::failure::Failure;
use crate::output::Output;
use api::PROTOCOL_VERSION;
use api::queue::{CARGO_LIMIT, Exported, ExportedJob, Import, Imported, PAGE_BYTES, PAGE_LIMIT, Page};
use http::Method;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `mainstay queue export ENV [FILE]`. A file is there whole, or not at all.
pub(super) async fn export(found: &Found, file: &Path, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    if file == Path::new("-") {
        export_to(found, &mut io::stdout().lock(), output).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut target = Draft::of(file)?;
    export_to(found, &mut target.file, output).await?;
    target.become_it()?;
    Ok(ExitCode::SUCCESS)
}

async fn export_to(found: &Found, target: &mut dyn Write, output: Output) -> Result<(), Failure> {
    let gateway = found.patient_gateway().with_answer_limit(CARGO_LIMIT);
    let (mut after, mut jobs) = (0, 0);
    loop {
        let page = Page { after, limit: PAGE_LIMIT };
        let exported: Exported = gateway.call(Method::POST, "/v1/queue/export", &page).await?;
        for job in &exported.jobs {
            let line = serde_json::to_string(job).map_err(|e| Failure::machine(e.to_string()))?;
            writeln!(target, "{line}")?;
        }
        jobs += exported.jobs.len();
        output.progress(&format!("{jobs} jobs are written"));
        match exported.next {
            Some(next) => after = next,
            None => break,
        }
    }
    target.flush()?;
    output.progress_over();
    Ok(())
}

/// A file on its way to its name. Dropped before that, it is gone.
struct Draft {
    name: PathBuf,
    /// Beside it, so that it can be renamed.
    draft: PathBuf,
    file: BufWriter<File>,
}

impl Draft {
    fn of(name: &Path) -> Result<Self, Failure> {
        if fs::symlink_metadata(name).is_ok() {
            return Err(cannot_be_made(name, &io::ErrorKind::AlreadyExists.into()));
        }
        let mut draft = name.as_os_str().to_owned();
        draft.push(format!(".{}.part", std::process::id()));
        let draft = PathBuf::from(draft);
        // It holds what users sent: their owner's alone.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let file = made.map_err(|cause| cannot_be_made(name, &cause))?;
        Ok(Self { name: name.to_owned(), draft, file: BufWriter::new(file) })
    }

    /// On disk, then by its name; nothing is overwritten.
    fn become_it(mut self) -> Result<(), Failure> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        renameat_with(CWD, &self.draft, CWD, &self.name, RenameFlags::NOREPLACE)
            .map_err(|cause| cannot_be_made(&self.name, &cause.into()))?;
        let folder = self.name.parent().filter(|folder| *folder != Path::new(""));
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After it was renamed there is nothing by this name.
        let _ = fs::remove_file(&self.draft);
    }
}

fn cannot_be_made(file: &Path, cause: &io::Error) -> Failure {
    Failure::usage(format!("{} cannot be made: {cause}", file.display()))
}

/// `mainstay queue import ENV [FILE]`.
pub(super) async fn import(found: &Found, file: &Path, output: Output) -> Result<ExitCode, Failure> {
    must_serve(found).await?;
    let content = String::from_utf8(read(file)?)
        .map_err(|_| Failure::usage(format!("{} is not text", file.display())))?;
    // All lines are read before any job is taken on.
    let mut jobs: Vec<(ExportedJob, usize)> = Vec::new();
    for (number, line) in content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let job = serde_json::from_str(line).map_err(|cause| {
            Failure::usage(format!("line {} of {} is no exported job: {cause}", number + 1, file.display()))
        })?;
        jobs.push((job, line.len()));
    }
    let (count, mut all) = (jobs.len(), Imported::default());
    for jobs in pages(jobs) {
        let request = Import { v: PROTOCOL_VERSION, by_uid: by_uid(), jobs };
        let asked = found.patient_gateway().call(Method::POST, "/v1/queue/import", &request).await;
        let imported: Imported = asked.map_err(|error| {
            output.progress_over();
            came_so_far(error.into(), &all, count)
        })?;
        all.accepted += imported.accepted;
        all.repeated += imported.repeated;
        output.progress(&format!("{} of {count} jobs", all.accepted + all.repeated));
    }
    output.progress_over();
    let said =
        format!("{} jobs are taken on; {} were there already, by their keys", all.accepted, all.repeated);
    output.data(said, &super::json(&all));
    Ok(ExitCode::SUCCESS)
}

/// Jobs with the bytes of their lines, in messages that the gateway takes.
fn pages(jobs: Vec<(ExportedJob, usize)>) -> Vec<Vec<ExportedJob>> {
    let mut pages: Vec<Vec<ExportedJob>> = Vec::new();
    let mut bytes = 0;
    for (job, size) in jobs {
        match pages.last_mut() {
            Some(page) if page.len() < PAGE_LIMIT as usize && bytes + size <= PAGE_BYTES => page.push(job),
            Some(_) | None => {
                bytes = 0;
                pages.push(vec![job]);
            }
        }
        bytes += size;
    }
    pages
}

/// What was taken on before an import broke off stays so.
fn came_so_far(failure: Failure, all: &Imported, count: usize) -> Failure {
    let (accepted, repeated) = (all.accepted, all.repeated);
    failure
        .besides(format!(
            "before that, {accepted} of {count} jobs were taken on and {repeated} were there already"
        ))
        .maybe_hint(Some("import the file again: jobs that are there are left out".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn pages_end_by_count_and_by_bytes() {
        for (sizes, expected) in [
            (vec![], vec![]),
            (vec![10; 1001], vec![500, 500, 1]),
            (vec![PAGE_BYTES / 2; 5], vec![2, 2, 1]),
            (vec![3 * PAGE_BYTES, 1, 1, 3 * PAGE_BYTES], vec![1, 2, 1]),
            (vec![1, PAGE_BYTES, 1], vec![1, 1, 1]),
        ] {
            let jobs = sizes.iter().map(|size| (ExportedJob(serde_json::Value::Null), *size)).collect();
            let found: Vec<usize> = pages(jobs).iter().map(Vec::len).collect();
            assert_eq!(found, expected, "{sizes:?}");
        }
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("jobs");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let mut broken = Draft::of(&name).unwrap();
        writeln!(broken.file, "half").unwrap();
        drop(broken);
        assert_eq!(names(), 0);

        let mut whole = Draft::of(&name).unwrap();
        writeln!(whole.file, "whole").unwrap();
        assert!(!name.exists());
        whole.become_it().unwrap();
        assert_eq!((fs::read_to_string(&name).unwrap().as_str(), names()), ("whole\n", 1));
        assert_eq!(fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o600);

        let refused = Draft::of(&name).map(drop).unwrap_err();
        assert!(refused.report().contains("exists"), "{}", refused.report());
        // Somebody else was faster.
        fs::remove_file(&name).unwrap();
        let late = Draft::of(&name).unwrap();
        fs::write(&name, "another's").unwrap();
        late.become_it().unwrap_err();
        assert_eq!((fs::read_to_string(&name).unwrap().as_str(), names()), ("another's", 1));
    }

    #[test]
    fn an_import_that_breaks_off_says_how_far_it_came() {
        let all = Imported { accepted: 7, repeated: 2 };
        let report = came_so_far(Failure::machine("the queue is full"), &all, 20).report();
        assert!(report.contains("the queue is full") && report.contains("7 of 20 jobs"), "{report}");
        assert!(report.contains("import the file again"), "{report}");
    }
}
