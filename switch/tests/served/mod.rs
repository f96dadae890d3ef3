//! A daemon in threads of the test's own process, with its interface `sv0`.

#![allow(dead_code, reason = "each test file uses a part")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use usnet::{Options, Session};
use usnet_switch::config::Config;
use usnet_switch::daemon::{Daemon, Prepared, ReadyInterface};
use usnet_switch::port::netmap::Kernel;

/// Longer than anything takes that works; a test that waits so long fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[track_caller]
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A daemon in this process, and its socket's directory.
pub(crate) struct Served {
    daemon: Option<Daemon>,
    directory: PathBuf,
}

impl Served {
    /// `interface` is what the configuration says of `sv0` beside its name.
    pub(crate) fn start(name: &str, interface: &str, kernel: Arc<dyn Kernel>) -> Self {
        let directory = std::env::temp_dir().join(format!("usnet-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let text = format!(
            "[control]\nsocket = \"{}\"\n[memory]\nport_slots = 4096\n\
             [[interface]]\nname = \"sv0\"\n{interface}\n",
            directory.join("control.sock").display()
        );
        let config = Config::parse(Path::new("test.toml"), &text).unwrap();
        let mut prepared = Prepared::new(&config, kernel).unwrap();
        let interfaces = ReadyInterface::open_all(&config, &mut prepared).unwrap();
        let daemon = Some(Daemon::start(config, prepared, interfaces).unwrap());
        Self { daemon, directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usnetctl"));
        let output = command.arg("--socket").arg(self.socket()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ctl(&[&["--json"], arguments].concat())).unwrap()
    }

    pub(crate) fn interface(&self) -> Value {
        self.json(&["status"])["interfaces"][0].clone()
    }

    pub(crate) fn is(&self, state: &str, reopened: u64) {
        until(&format!("{state}, reopened {reopened}"), || {
            let seen = self.interface();
            (seen["state"] == state && seen["reopened"] == reopened).then_some(())
        });
    }

    pub(crate) fn attach(&self) -> Session {
        let options = Options { socket: self.socket(), ..Options::named("test") };
        Session::attach(options).unwrap()
    }

    /// Nothing is lost when no frame is on its way.
    pub(crate) fn is_whole(&self) {
        let stats = self.json(&["stats"]);
        assert_eq!(stats["frames_conserved"], true, "{stats}");
        assert_eq!(stats["slots_conserved"], true, "{stats}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.daemon.take());
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
