//! A child process whose output lands in files, and which ends with its owner.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};

use super::PATIENCE;

/// A running program.
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts the command; its output goes to `<dir>/<name>.stdout` and `.stderr`, which grow over restarts.
    pub(crate) fn start(name: &str, dir: &Path, mut command: Command) -> Self {
        let (stdout, stderr) = (dir.join(format!("{name}.stdout")), dir.join(format!("{name}.stderr")));
        let open = |path: &Path| {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            Stdio::from(file.expect("the temporary folder is writable"))
        };
        command.stdin(Stdio::null()).stdout(open(&stdout)).stderr(open(&stderr)).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, stdout, stderr }
    }

    /// Everything the program wrote so far, standard output first.
    pub(crate) fn output(&self) -> String {
        [&self.stdout, &self.stderr].into_iter().map(|path| read_lossy(path)).collect()
    }

    /// What it wrote on standard output so far.
    pub(crate) fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// Sends a signal by name, e.g. `TERM`.
    pub(crate) async fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap_or_else(|| panic!("{} has ended", self.name));
        // The shell's own `kill` is everywhere; there is no signal call without unsafe code or one more dependency.
        let status = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await;
        assert!(status.expect("sh runs").success(), "cannot send {signal} to {}", self.name);
    }

    /// Panics with the program's output if it has ended.
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("own child") {
            panic!("{} ended early: {status}\n{}", self.name, self.output());
        }
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let waited = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        waited.unwrap_or_else(|_| panic!("{} does not end\n{}", self.name, self.output())).expect("own child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.output();
            let from = output.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
            eprintln!("---- output of {}\n{}----", self.name, output.get(from..).unwrap_or_default());
        }
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
