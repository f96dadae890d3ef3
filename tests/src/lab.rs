//! Two hosts joined by a veth, with a usnetd on one of them.

use crate::programs::{program, skip};
use rustix::process::Pid;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use usnet_switch::net::namespace::{Namespace, die_with_parent};
use usnet_switch::net::offload::{Offload, Offloads};
use usnet_switch::net::sysctl::Setting;
use usnet_switch::net::{InterfaceAddress, NetError, Netlink};

/// The shared address.
pub const INSIDE: &str = "10.9.0.1";
/// The address of the other host.
pub const OUTSIDE: &str = "10.9.0.2";
/// The same, IPv6.
pub const INSIDE6: &str = "fd09::1";
pub(crate) const OUTSIDE6: &str = "fd09::2";

/// A process that is ended when this is dropped.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// Ends it now, by SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The two hosts.
#[derive(Debug)]
pub struct Lab {
    /// Where usnetd runs.
    pub inside: Namespace,
    /// The other host.
    pub outside: Namespace,
    /// The host behind, if usnetd is a bump in the wire in front of it.
    pub behind: Option<Namespace>,
    directory: PathBuf,
    daemon: Option<Running>,
}

/// Gives an end of a veth its addresses, switches segmentation offload off and sets it up.
pub(crate) fn set_up_host(name: &str, addresses: [&str; 2]) -> Result<(), NetError> {
    let mut netlink = Netlink::open()?;
    let [v4, v6] = addresses;
    netlink.add_address(name, address(v4, 24))?;
    let _ = Setting::Ipv6DuplicateDetection.change(name, 0).map(|c| c.keep());
    netlink.add_address(name, address(v6, 64))?;
    let offloads = Offloads::of(name)?;
    for offload in [Offload::TcpSegmentation, Offload::GenericSegmentation] {
        offloads.set(offload, false)?;
    }
    netlink.set_up(name)
}

fn address(text: &str, prefix: u8) -> InterfaceAddress {
    InterfaceAddress::new(text.parse::<IpAddr>().expect("an address"), prefix)
}

impl Lab {
    /// Two hosts without usnetd; `None`, said aloud, where there are no namespaces. Segmentation
    /// offload is off outside, checksum offload is as the kernel has it, so that frames arrive with
    /// checksums left to hardware.
    ///
    /// # Panics
    /// If the hosts cannot be set up although there are namespaces.
    #[must_use]
    pub fn hosts() -> Option<Self> {
        let (inside, outside) = (Self::namespace()?, Self::namespace()?);
        let here = || -> Result<(), NetError> {
            let mut netlink = Netlink::open()?;
            netlink.add_veth("sv0", "cl0", Some(outside.as_fd()))?;
            netlink.add_address("sv0", address(INSIDE, 24))?;
            let _ = Setting::Ipv6DuplicateDetection.change("sv0", 0).map(|c| c.keep());
            netlink.add_address("sv0", address(INSIDE6, 64))?;
            netlink.set_up("sv0")
        };
        let there = || set_up_host("cl0", [OUTSIDE, OUTSIDE6]);
        inside.run(here).expect("a namespace").expect("the inside host");
        outside.run(there).expect("a namespace").expect("the outside host");
        Some(Self::of(inside, outside, None))
    }

    /// A namespace; `None`, said aloud, where there are none.
    pub(crate) fn namespace() -> Option<Namespace> {
        Namespace::create()
            .inspect_err(|error| skip(&format!("no network namespace: {error}; run as root")))
            .ok()
    }

    /// Hosts that are set up.
    pub(crate) fn of(inside: Namespace, outside: Namespace, behind: Option<Namespace>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("usnet-lab-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).expect("a directory for the test");
        Self { inside, outside, behind, directory, daemon: None }
    }

    /// The same with usnetd on the inside host; `more` is appended to its configuration.
    ///
    /// # Panics
    /// If usnetd does not start.
    #[must_use]
    pub fn with_usnetd(more: &str) -> Option<Self> {
        let mut lab = Self::hosts()?;
        lab.start_usnetd(more);
        Some(lab)
    }

    /// Starts usnetd and waits until it answers.
    ///
    /// # Panics
    /// If it does not.
    pub fn start_usnetd(&mut self, more: &str) {
        self.start_usnetd_with("", more);
    }

    /// The same with `control` in its table of that name.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn start_usnetd_with(&mut self, control: &str, more: &str) {
        let config = format!(
            "[control]\nsocket = {:?}\nstate_dir = {:?}\n{control}\n\
             [[interface]]\nname = \"sv0\"\n{more}",
            self.socket().display().to_string(),
            self.directory.join("state").display().to_string()
        );
        let file = self.directory.join("usnetd.toml");
        fs::write(&file, config).expect("the configuration");
        let log = fs::File::create(self.directory.join("usnetd.log")).expect("a log");
        let mut command = Command::new(program("usnetd"));
        command.arg("run").arg("--config").arg(&file).stdin(Stdio::null()).stderr(log);
        self.inside.adopt(&mut command).expect("a namespace");
        die_with_parent(&mut command);
        self.daemon = Some(Running(command.spawn().expect("usnetd")));
        let end = Instant::now() + Duration::from_secs(20);
        while !self.ctl(&["status", "--json"]).status.success() {
            assert!(Instant::now() < end, "usnetd does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What usnetd has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("usnetd.log")).unwrap_or_default()
    }

    /// Its process.
    ///
    /// # Panics
    /// If it was not started.
    pub fn usnetd(&mut self) -> &mut Child {
        &mut self.daemon.as_mut().expect("usnetd was started").0
    }

    /// The process of this name that usnetd has started to outlast it.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn outlasting(&mut self, name: &str) -> Pid {
        let usnetd = self.usnetd().id();
        let children = fs::read_to_string(format!("/proc/{usnetd}/task/{usnetd}/children"));
        let children = children.expect("usnetd runs");
        let is_it = |pid: &&str| {
            let found = fs::read_to_string(format!("/proc/{pid}/comm"));
            found.is_ok_and(|found| name.starts_with(found.trim_end()))
        };
        let found = children.split_whitespace().find(is_it).and_then(|pid| pid.parse().ok());
        found.and_then(Pid::from_raw).expect("a process that outlasts it")
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// A folder for the test's files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs usnetctl.
    ///
    /// # Panics
    /// If it cannot be run at all.
    #[must_use]
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("usnetctl"));
        command.arg("--socket").arg(self.socket()).args(arguments);
        command.output().expect("usnetctl")
    }

    /// One JSON document from usnetctl.
    ///
    /// # Panics
    /// If it gives none.
    #[must_use]
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        let output = self.ctl(&all);
        let error = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("usnetctl {arguments:?}: {error}"))
    }

    fn command(namespace: &Namespace, name: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(name);
        command.args(arguments).stdin(Stdio::null());
        namespace.adopt(&mut command).expect("a namespace");
        die_with_parent(&mut command);
        command
    }

    /// A program on the other host.
    #[must_use]
    pub fn outside(&self, name: &str, arguments: &[&str]) -> Command {
        Self::command(&self.outside, name, arguments)
    }

    /// A program on the host where usnetd runs.
    #[must_use]
    pub fn inside(&self, name: &str, arguments: &[&str]) -> Command {
        Self::command(&self.inside, name, arguments)
    }

    /// A program on the host behind the bump.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn behind(&self, name: &str, arguments: &[&str]) -> Command {
        Self::command(self.behind.as_ref().expect("a host behind"), name, arguments)
    }

    /// Starts one of the client library's examples and waits until `port` answers for it in the
    /// rules of the switch.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn client(&self, example: &str, arguments: &[&str], port: u16) -> Running {
        let mut command = Self::command(&self.inside, program(example), arguments);
        command.env("USNETD_SOCKET", self.socket()).stdout(Stdio::null());
        let mut running = Running(command.spawn().expect("a client"));
        let end = Instant::now() + Duration::from_secs(10);
        while !self.is_claimed(port) {
            let ended = running.0.try_wait().expect("its state");
            assert!(ended.is_none(), "{example} ended: {ended:?}");
            assert!(Instant::now() < end, "{example} claims no port {port}");
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    /// Whether a client has this port.
    fn is_claimed(&self, port: u16) -> bool {
        let rules = self.ask(&["rule", "list"]);
        let number = |rule: &Value, key: &str| rule[key].as_u64().unwrap_or(0);
        let has_it = |rule: &Value| {
            let range = number(rule, "first_port")..=number(rule, "last_port");
            rule["holder"] == "client" && range.contains(&port.into())
        };
        rules.as_array().is_some_and(|rules| rules.iter().any(has_it))
    }

    /// The switch's counters.
    ///
    /// # Panics
    /// If usnetctl gives none.
    #[must_use]
    pub fn stats(&self) -> Value {
        self.ask(&["stats"])
    }

    /// Frames in = out + used + dropped, slots = sum over owners.
    ///
    /// # Panics
    /// If one is unaccounted for.
    pub fn assert_books_balance(&self) {
        let stats = self.stats();
        for key in ["frames_conserved", "slots_conserved"] {
            assert_eq!(find(&stats, key), Some(&Value::Bool(true)), "{key} in {stats:#}");
        }
    }

    /// Holds the switch to its books, and usnetd to its life.
    ///
    /// # Panics
    /// If a frame or a slot is unaccounted for, or usnetd has died.
    pub fn finish(mut self) {
        self.assert_books_balance();
        let ended = self.usnetd().try_wait().expect("its state");
        assert!(ended.is_none(), "usnetd has ended: {ended:?}\n{}", self.log());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.daemon = None;
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Finds `key` wherever it stands in a document.
#[must_use]
pub fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|v| find(v, key))),
        Value::Array(list) => list.iter().find_map(|v| find(v, key)),
        _ => None,
    }
}

/// A number anywhere in a document; 0 if it is not there.
#[must_use]
pub fn number(value: &Value, key: &str) -> u64 {
    find(value, key).and_then(Value::as_u64).unwrap_or(0)
}
