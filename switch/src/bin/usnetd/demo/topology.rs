//! The two hosts of the demo and their processes.
//!
//! ```text
//!   namespace "here"                                   namespace "outside"
//!     usnetd -- http, echo, bulk (clients)
//!        |                                                probes (kernel sockets)
//!     sv0 10.9.0.1, kernel service on port 8080 --veth-- cl0 10.9.0.2
//! ```
//!
//! Without namespaces the same over a wire in memory: usnetd has two interfaces on one wire, and the
//! probes are clients of the second.
//!
//! Over netmap's double `sv0` is a card that usnetd plays itself, between two veth pairs:
//!
//! ```text
//!   kernel -- sv0 --veth-- sv1 [host rings | double in usnetd | card's rings] cb0 --veth-- cl0
//! ```

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use usnet_shmring::control::QueryKind;
use usnet_switch::net::namespace::{self, Namespace};
use usnet_switch::net::offload::Offloads;
use usnet_switch::net::sysctl::{Changed, Setting};
use usnet_switch::net::{InterfaceAddress, NetError, Netlink};

/// The address that the kernel and the clients share.
pub(super) const SHARED: &str = "10.9.0.1";
const OUTSIDE: &str = "10.9.0.2";
/// The shared interface, and the one of the outside world.
pub(super) const INSIDE_NAME: &str = "sv0";
pub(super) const OUTSIDE_NAME: &str = "cl0";

/// The driver's side of the shared interface, and the near end of the cable, where netmap's double
/// stands between them.
pub(super) const DRIVER_NAME: &str = "sv1";
pub(super) const CABLE_NAME: &str = "cb0";

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// A veth, and the best that shares it with the kernel by a device of its own.
    Best,
    /// A veth, and packet sockets.
    Veth,
    /// A veth, and XDP sockets.
    Xdp,
    /// A veth, and a macvtap over it.
    Macvtap,
    /// A wire in memory.
    Wire,
    /// A veth, and netmap.
    Netmap,
    /// netmap's double.
    NetmapDouble,
}

/// Where the outside world is.
#[derive(Debug)]
pub(super) enum Outside {
    /// In a namespace, with the kernel's stack.
    Kernel(Namespace),
    /// On the second interface of usnetd.
    Client,
}

/// Everything that was set up; dropping it ends all processes that it started.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) outside: Outside,
    carrier: Carrier,
    /// What usnetd says it serves the interface by.
    served_by: Option<String>,
    directory: PathBuf,
    program: PathBuf,
    children: Vec<(String, Child)>,
}

/// Makes two namespaces joined by a veth, with this process in the first.
fn join_namespaces(carrier: Carrier) -> Result<Namespace, NetError> {
    namespace::enter_private()?;
    let outside = Namespace::create()?;
    let address = |text: &str| {
        let ip: IpAddr = text.parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
        InterfaceAddress::new(ip, 24)
    };
    let mut netlink = Netlink::open()?;
    {
        use std::os::fd::AsFd;
        let near = match carrier {
            Carrier::NetmapDouble => CABLE_NAME,
            _ => INSIDE_NAME,
        };
        netlink.add_veth(near, OUTSIDE_NAME, Some(outside.as_fd()))?;
    }
    if carrier == Carrier::NetmapDouble {
        netlink.add_veth(INSIDE_NAME, DRIVER_NAME, None)?;
        for name in [CABLE_NAME, DRIVER_NAME] {
            // They stand for a card: the kernel has no stack there.
            let _ = Setting::Ipv6Disable.change(name, 1).map(Changed::keep);
            Setting::Ipv4ArpIgnore.change(name, 8)?.keep();
            Offloads::of(name)?.disable()?;
            netlink.set_up(name)?;
        }
    }
    netlink.add_address(INSIDE_NAME, address(SHARED))?;
    netlink.set_up(INSIDE_NAME)?;
    outside.run(|| -> Result<(), NetError> {
        let mut netlink = Netlink::open()?;
        netlink.add_address(OUTSIDE_NAME, address(OUTSIDE))?;
        // A veth hands over segments as large as the sender's kernel likes; a wire would not.
        Offloads::of(OUTSIDE_NAME)?.disable()?;
        netlink.set_up(OUTSIDE_NAME)
    })??;
    Ok(outside)
}

impl Topology {
    /// Sets everything up. Call it while the process has one thread. Returns why there are no
    /// namespaces, if there are none.
    pub(super) fn build(carrier: Carrier) -> io::Result<(Self, Option<String>)> {
        let joined = (carrier != Carrier::Wire).then(|| join_namespaces(carrier));
        let (outside, why) = match joined {
            Some(Ok(namespace)) => (Outside::Kernel(namespace), None),
            Some(Err(error)) => (Outside::Client, Some(chain(&error))),
            None => (Outside::Client, Some("asked for with --wire".to_owned())),
        };
        let directory = std::env::temp_dir().join(format!("usnet-demo-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let program = std::env::current_exe()?;
        let topology =
            Self { outside, carrier, served_by: None, directory, program, children: Vec::new() };
        fs::write(topology.config(), topology.config_text())?;
        Ok((topology, why))
    }

    /// What carries the frames, as far as is known.
    pub(super) fn backend(&self) -> &str {
        self.served_by.as_deref().unwrap_or(self.port())
    }

    /// What the configuration says of that.
    fn port(&self) -> &'static str {
        match (&self.outside, self.carrier) {
            (Outside::Kernel(_), Carrier::Best) => "auto",
            (Outside::Kernel(_), Carrier::Netmap | Carrier::NetmapDouble) => "netmap",
            (Outside::Kernel(_), Carrier::Xdp) => "af_xdp",
            (Outside::Kernel(_), Carrier::Macvtap) => "macvtap",
            (Outside::Kernel(_), _) => "af_packet",
            (Outside::Client, _) => "wire",
        }
    }

    /// Whether the kernel's way to the network does not depend on usnetd's being there.
    pub(super) fn restarts(&self) -> bool {
        matches!(self.outside, Outside::Kernel(_)) && self.carrier != Carrier::NetmapDouble
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Where programs of usnetd 0.1 are let in.
    fn gateway(&self) -> PathBuf {
        self.directory.join("usnetd.socket")
    }

    fn config(&self) -> PathBuf {
        self.directory.join("usnetd.toml")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("usnetd.log")
    }

    fn config_text(&self) -> String {
        let socket = self.socket();
        let state = self.directory.join("state");
        let head = format!(
            "[control]\nsocket = {:?}\nstate_dir = {:?}\ncompat = \"usnetd-0.1\"\ncompat_socket = {:?}\n",
            socket.display().to_string(),
            state.display().to_string(),
            self.gateway().display().to_string()
        );
        let interfaces = match self.outside {
            Outside::Kernel(_) => {
                let port = self.port();
                // With a device for the host netmap is passed over: its driver for veth leaves out who is at the
                // other end.
                let host = match (self.carrier, Path::new("/dev/net/tun").exists()) {
                    (Carrier::Best, true) => "tap",
                    (Carrier::Best, false) => "veth",
                    _ => "auto",
                };
                format!(
                    "[[interface]]\nname = \"{INSIDE_NAME}\"\nport = \"{port}\"\nhost = \"{host}\"\n"
                )
            }
            Outside::Client => {
                let end = |name, address| {
                    format!(
                        "[[interface]]\nname = \"{name}\"\nport = \"wire\"\nnetwork = \"lan\"\n\
                         addresses = [\"{address}/24\"]\n"
                    )
                };
                end(INSIDE_NAME, SHARED) + &end(OUTSIDE_NAME, OUTSIDE)
            }
        };
        head + &interfaces
    }

    /// Starts usnetd and waits until it answers.
    pub(super) fn start_daemon(&mut self) -> io::Result<()> {
        let log = fs::File::create(self.log())?;
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--config").arg(self.config());
        if self.carrier == Carrier::NetmapDouble {
            command.arg("--netmap-double");
            command.arg(format!("{INSIDE_NAME}={DRIVER_NAME},{CABLE_NAME}"));
        }
        command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.spawn("usnetd", command)?;
        let end = Instant::now() + Duration::from_secs(10);
        let socket = self.socket();
        let query = || super::status::query(&socket, QueryKind::Status).ok();
        let mut status = query();
        while status.is_none() {
            if Instant::now() > end || self.has_ended("usnetd") {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                return Err(io::Error::other(format!("usnetd did not start:\n{}", log.trim_end())));
            }
            std::thread::sleep(Duration::from_millis(10));
            status = query();
        }
        let port = status.and_then(|s| Some(s["interfaces"][0]["port"].as_str()?.to_owned()));
        self.served_by = port;
        Ok(())
    }

    /// Starts a client process of this program.
    pub(super) fn start_client(&mut self, role: &str) -> io::Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("demo-client").arg(role).arg("--interface").arg(INSIDE_NAME);
        command.arg("--gateway").arg(self.gateway());
        command.env("USNETD_SOCKET", self.socket()).stdin(Stdio::null()).stdout(Stdio::piped());
        self.spawn(role, command)?;
        // It prints a line when it serves.
        let ready = self.child(role).and_then(|child| child.stdout.take());
        let mut line = String::new();
        if let Some(out) = ready {
            io::BufRead::read_line(&mut io::BufReader::new(out), &mut line)?;
        }
        if line.trim() == "ready" {
            Ok(())
        } else {
            Err(io::Error::other(format!("the client {role} did not start")))
        }
    }

    /// A probe of this program, in the outside world.
    pub(super) fn probe(&self, arguments: &[String], inside: bool) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        command.arg("demo-probe").args(arguments);
        command.env("USNETD_SOCKET", self.socket());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        match (&self.outside, inside) {
            (_, true) => {
                command.arg("--interface").arg(INSIDE_NAME);
            }
            (Outside::Kernel(namespace), false) => {
                namespace.adopt(&mut command).map_err(io::Error::other)?;
            }
            (Outside::Client, false) => {
                command.arg("--interface").arg(OUTSIDE_NAME);
            }
        }
        namespace::die_with_parent(&mut command);
        Ok(command)
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> io::Result<()> {
        namespace::die_with_parent(&mut command);
        let child = command.spawn()?;
        self.children.push((name.to_owned(), child));
        Ok(())
    }

    fn child(&mut self, name: &str) -> Option<&mut Child> {
        self.children.iter_mut().find(|(n, _)| n == name).map(|(_, child)| child)
    }

    fn has_ended(&mut self, name: &str) -> bool {
        self.child(name).is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Ends a process at once, with SIGKILL.
    pub(super) fn kill(&mut self, name: &str) -> io::Result<()> {
        let at = self.children.iter().position(|(n, _)| n == name);
        let Some((_, mut child)) = at.map(|at| self.children.remove(at)) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        child.kill()?;
        child.wait().map(drop)
    }

    /// Asks usnetd to stop and returns whether it did so in time and with success.
    pub(super) fn stop_daemon(&mut self) -> bool {
        let Some(child) = self.child("usnetd") else { return false };
        let pid = rustix::process::Pid::from_child(child);
        if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_err() {
            return false;
        }
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if let Ok(Some(status)) = child.try_wait() {
                self.children.retain(|(name, _)| name != "usnetd");
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Where the demo keeps its files, which go when it ends.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        // Clients first, so that usnetd sees them leave.
        while let Some((_, mut child)) = self.children.pop() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
