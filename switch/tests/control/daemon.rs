//! A daemon of its own for each test: the shipped program over a wire in memory.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use usnet_shmring::control::Channel;

/// Longer than anything takes that works; a test that waits so long fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `done` gives something.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory that goes with the test.
#[derive(Debug)]
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("usnet-control-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Gives `usnetd` arguments and waits for its end.
pub(crate) fn usnetd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_usnetd")).args(arguments).output().unwrap()
}

/// A running daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    pub(crate) directory: Directory,
}

impl Daemon {
    /// Starts one whose configuration is one wire and `more`.
    pub(crate) fn start(more: &str) -> Self {
        Self::start_in(Directory::new(), more)
    }

    pub(crate) fn start_in(directory: Directory, more: &str) -> Self {
        Self::start_with(directory, more, &[])
    }

    /// The same with variables in its environment.
    pub(crate) fn start_with(directory: Directory, more: &str, env: &[(&str, &str)]) -> Self {
        let socket = directory.0.join("run/control.sock");
        let config = format!(
            "[control]\nsocket = \"{}\"\nmode = \"0666\"\n\
             [memory]\nport_slots = 1024\ngroup_slots = 1024\narena_slots = 65536\n\
             [[interface]]\nname = \"w0\"\nport = \"wire\"\n\
             addresses = [\"10.77.0.1/24\", \"fd77::1/64\"]\nhost_ports = [\"tcp/22\"]\n{more}",
            socket.display()
        );
        let file = directory.0.join("usnetd.toml");
        std::fs::write(&file, config).unwrap();
        // Reachable for the other users that tests speak for.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&directory.0, open).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_usnetd"))
            .args(["run", "--config"])
            .arg(&file)
            .env("RUST_LOG", "debug")
            .envs(env.iter().copied())
            .stderr(std::fs::File::create(directory.0.join("log")).unwrap())
            .spawn()
            .unwrap();
        until("the daemon to listen", || {
            if let Some(status) = child.try_wait().unwrap() {
                let log = std::fs::read_to_string(directory.0.join("log"));
                panic!("the daemon ended with {status}: {log:?}");
            }
            Channel::connect(&socket).ok()
        });
        Self { child, directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.0.join("run/control.sock")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.0.join("usnetd.toml")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.0.join("log")).unwrap()
    }

    /// Runs `usnetctl` on it.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        ctl(&self.socket(), arguments)
    }

    /// What `usnetctl --json` prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ctl(&[&["--json"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn clients(&self) -> Vec<Value> {
        self.json(&["client", "list"]).as_array().unwrap().clone()
    }

    /// Rules that clients hold.
    pub(crate) fn rules(&self) -> Vec<Value> {
        let all = self.json(&["rule", "list"]).as_array().unwrap().clone();
        all.into_iter().filter(|rule| rule["holder"] == "client").collect()
    }

    /// Waits until no session is left, then checks that nothing of any session is.
    pub(crate) fn is_clean(&self) {
        until("all sessions to end", || self.clients().is_empty().then_some(()));
        assert_eq!(self.rules(), Vec::<Value>::new());
        let stats = self.json(&["stats"]);
        assert_eq!(stats["slots"]["free"], stats["slots"]["total"], "{stats}");
        assert_eq!(stats["slots"]["total"], 1024, "only the port's slots are left");
        assert_eq!(
            (&stats["frames_conserved"], &stats["slots_conserved"]),
            (&true.into(), &true.into())
        );
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("the daemon to end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- log of the daemon\n{}", self.log());
        }
    }
}

/// Runs `usnetctl`.
pub(crate) fn ctl(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_usnetctl"))
        .arg("--socket")
        .arg(socket)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
