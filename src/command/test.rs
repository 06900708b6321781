//! `mcp-authz test`: runs policy test cases.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use mcp_authz_core::{
    document::Format,
    selftest::{self, CASES_BYTES_MAX, CaseFile, Loaded, Reading},
};

use super::{FAILED, USAGE};

/// Nested folders that are looked into.
const FOLDER_DEPTH_MAX: u32 = 16;

/// What a case file states as its format.
const FORMAT: &[u8] = b"mcp-policy-cases/";
/// Bytes in which it must do so to be found in a folder.
const FORMAT_WITHIN_BYTES: u64 = 512;

const EXAMPLES: &str = "\
Examples:
  mcp-authz test policies/
  mcp-authz test policies/refunds.test.yaml
  mcp-authz test --compat tests/policy_cases/

A case file holds suites with a `policy` or a `policy_file` and calls with the decision that each must get.
In a folder every file named *.test.json, *.test.yaml or *.test.yml is run, and every other
document that begins by saying `format: mcp-policy-cases/1`.
Exit status: 0 all as expected, 1 something was not, 64 a file cannot be read or has defects.";

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Case files, or folders of them.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Test as if every policy said `compat: lenient`; `expect_compat` counts where a case has it.
    #[arg(long)]
    compat: bool,
}

/// Runs the cases: one line for each that fails, the totals last.
pub fn run(args: Args, out: &mut impl Write, err: &mut impl Write) -> ExitCode {
    let reading = if args.compat { Reading::Compat } else { Reading::AsWritten };
    let mut tester = Tester { reading, passed: 0, failed: 0, unreadable: false };
    let told = args.paths.into_iter().try_for_each(|path| tester.path(&path, out, err)).and_then(|()| {
        let (passed, failed) = (tester.passed, tester.failed);
        writeln!(out, "{passed} passed, {failed} failed")
    });
    // Nobody reads the rest of the report; the status must still be true.
    let told = told.is_ok();
    match (tester.unreadable || !told, tester.failed) {
        (true, _) => ExitCode::from(USAGE),
        (false, 0) => ExitCode::SUCCESS,
        (false, _) => ExitCode::from(FAILED),
    }
}

struct Tester {
    reading: Reading,
    passed: usize,
    failed: usize,
    unreadable: bool,
}

impl Tester {
    fn path(&mut self, path: &Path, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
        if !path.exists() {
            self.unreadable = true;
            return writeln!(err, "{}: no such file or folder", path.display());
        }
        if !path.is_dir() {
            return self.file(path, out, err);
        }
        let mut files = Vec::new();
        if let Err(error) = case_files(path, 0, &mut files) {
            self.unreadable = true;
            return writeln!(err, "{}: {error}", path.display());
        }
        if files.is_empty() {
            self.unreadable = true;
            return writeln!(err, "{}: holds no case file", path.display());
        }
        files.sort();
        files.iter().try_for_each(|file| self.file(file, out, err))
    }

    fn file(&mut self, path: &Path, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
        let name = path.display().to_string();
        let loaded = match load(path, CASES_BYTES_MAX) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.unreadable = true;
                return writeln!(err, "{error}");
            }
        };
        let cases = CaseFile { file: &name, bytes: &loaded.bytes, format: loaded.format };
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut policies = |file: &str| load(&folder.join(file), mcp_authz_core::policy::POLICY_BYTES_MAX);
        match selftest::run(&cases, self.reading, &mut policies) {
            Ok(results) => {
                self.passed = self.passed.saturating_add(results.passed);
                self.failed = self.failed.saturating_add(results.failures.len());
                results.failures.iter().try_for_each(|failure| writeln!(out, "FAIL {name}: {failure}"))
            }
            Err(defects) => {
                self.unreadable = true;
                defects.iter().try_for_each(|defect| writeln!(err, "{defect}"))
            }
        }
    }
}

/// Collects the case files of a folder and of those below it.
fn case_files(folder: &Path, depth: u32, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if depth > FOLDER_DEPTH_MAX {
        return Err(io::Error::other("folders are nested too deep"));
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            case_files(&path, depth.saturating_add(1), files)?;
        } else if is_case_file(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// By its name, or by the format that it states near its beginning.
fn is_case_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if [".test.json", ".test.yaml", ".test.yml"].iter().any(|end| name.ends_with(end)) {
        return true;
    }
    let mut start = Vec::new();
    let read = fs::File::open(path)
        .and_then(|opened| io::Read::read_to_end(&mut io::Read::take(opened, FORMAT_WITHIN_BYTES), &mut start));
    Format::of_name(name).is_some() && read.is_ok() && start.windows(FORMAT.len()).any(|window| window == FORMAT)
}

/// Reads a file whose extension tells its syntax. More than the limit is not read.
pub(super) fn load(path: &Path, bytes_max: usize) -> Result<Loaded, String> {
    let file = path.display().to_string();
    let Some(format) = Format::of_name(&file) else {
        return Err(format!("{file}: expected a file named *.json, *.yaml or *.yml"));
    };
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read =
        fs::File::open(path).and_then(|opened| io::Read::read_to_end(&mut io::Read::take(opened, limit), &mut bytes));
    match read {
        Ok(_) => Ok(Loaded { file, bytes, format }),
        Err(error) => Err(format!("{file}: {error}")),
    }
}

#[cfg(test)]
mod tests;
