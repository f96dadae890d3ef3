//! TCP goodput of clients of usnetd, beside that of the kernel's own stack in the same run.
//!
//! ```text
//!   kernel   inside: sv0 ------------- cl0 :outside                   both stacks the kernel's
//!   veth     client -- usnetd -- sv0 ------------- cl0 :outside       one stack the kernel's
//!   tap      client -- usnetd -- TAP :kernel                          one stack the kernel's
//!   wire     client -- usnetd -- client                               none
//! ```
//!
//! - Everything lies in network namespaces that end with this process. Daemon and clients are threads of it.
//! - What counts is what the receiver has read, after a tenth of the time has passed.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use usnet::net::{TcpListener as ClientListener, TcpStream as ClientStream};
use usnet::{Options, Stack, StackOptions};
use usnet_switch::config::Config;
use usnet_switch::daemon::{Daemon, Prepared, ReadyInterface};
use usnet_switch::net::namespace::Namespace;
use usnet_switch::net::offload::Offloads;
use usnet_switch::net::{InterfaceAddress, Netlink};
use usnet_switch::port::netmap::Module;

pub(crate) const INSIDE: &str = "10.9.0.1";
const OUTSIDE: &str = "10.9.0.2";
/// The client's and the kernel's address on a TAP device.
const ON_TAP: [&str; 2] = ["10.8.0.2", "10.8.0.1"];
/// Two clients without a network.
const ON_WIRE: [&str; 2] = ["10.7.0.11", "10.7.0.12"];
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of each buffer of a client's connection.
const WINDOW: usize = 4 << 20;
/// Bytes that are written at once.
const CHUNK: usize = 128 << 10;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The client, or the first of two.
    Out,
    /// The kernel.
    In,
}

pub(crate) fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("cannot {what}: {error}")
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(failed("read an address"))
}

fn prefixed(text: &str) -> Result<InterfaceAddress, String> {
    Ok(InterfaceAddress::new(address(text)?, 24))
}

/// Bits a second, in millions, that `receiver` reads of what `sender` writes.
fn transfer(
    mut sender: impl Write + Send,
    mut receiver: impl Read,
    time: Duration,
) -> Result<f64, String> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let chunk = vec![0x5a; CHUNK];
            while !stop.load(Ordering::Relaxed) && sender.write_all(&chunk).is_ok() {}
        });
        let mut buffer = vec![0; CHUNK];
        let begin = Instant::now();
        let (mut since, mut bytes) = (None, 0u64);
        let result = loop {
            let count = match receiver.read(&mut buffer) {
                Ok(0) => break Err("the sender has ended".to_owned()),
                Ok(count) => count,
                Err(error) => break Err(format!("cannot receive: {error}")),
            };
            let now = Instant::now();
            match since {
                None if now - begin >= time / 10 => since = Some(now),
                None => {}
                Some(first) => {
                    bytes += count as u64;
                    if now - first >= time {
                        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                        break Ok(bytes as f64 * 8e-6 / (now - first).as_secs_f64());
                    }
                }
            }
        };
        stop.store(true, Ordering::Relaxed);
        // A sender that waits for room is told that nobody reads any more.
        drop(receiver);
        result
    })
}

/// Two hosts on a veth.
#[derive(Debug)]
pub struct Veth {
    pub(crate) inside: Namespace,
    pub(crate) outside: Namespace,
}

impl Veth {
    /// With the offloads that the kernel gives a veth, or with none.
    ///
    /// # Errors
    /// The privilege is missing.
    pub fn new(offloads: bool) -> Result<Self, String> {
        let namespace = || Namespace::create().map_err(failed("make a namespace"));
        let (inside, outside) = (namespace()?, namespace()?);
        let set_up = |name: &str, own: &str| {
            let mut netlink = Netlink::open().map_err(failed("open netlink"))?;
            netlink.add_address(name, prefixed(own)?).map_err(failed("set an address"))?;
            if !offloads {
                Offloads::of(name).and_then(|o| o.disable()).map_err(failed("change offloads"))?;
            }
            netlink.set_up(name).map_err(failed("set an interface up"))
        };
        let enter = failed("enter a namespace");
        inside
            .run(|| {
                let mut netlink = Netlink::open().map_err(failed("open netlink"))?;
                netlink
                    .add_veth("sv0", "cl0", Some(outside.as_fd()))
                    .map_err(failed("make a veth"))?;
                set_up("sv0", INSIDE)
            })
            .map_err(&enter)??;
        outside.run(|| set_up("cl0", OUTSIDE)).map_err(&enter)??;
        Ok(Self { inside, outside })
    }

    /// Between the kernel's stacks.
    ///
    /// # Errors
    /// No connection.
    pub fn kernel(&self, time: Duration) -> Result<f64, String> {
        let (sender, receiver) = kernels(&self.inside, &self.outside, OUTSIDE)?;
        transfer(sender, receiver, time)
    }
}

/// A connection from a kernel to one that listens at `to`.
fn kernels(from: &Namespace, at: &Namespace, to: &str) -> Result<(TcpStream, TcpStream), String> {
    let enter = failed("enter a namespace");
    let listener = at
        .run(|| TcpListener::bind((address(to)?, 0)).map_err(failed("listen")))
        .map_err(&enter)??;
    let target = listener.local_addr().map_err(failed("listen"))?;
    let connect = || TcpStream::connect_timeout(&target, PATIENCE).map_err(failed("connect"));
    let stream = from.run(connect).map_err(&enter)??;
    let (accepted, _) = listener.accept().map_err(failed("accept"))?;
    limit(&stream)?;
    limit(&accepted)?;
    Ok((stream, accepted))
}

fn limit(stream: &TcpStream) -> Result<(), String> {
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .map_err(failed("set a time limit"))
}

/// A daemon in this process.
#[derive(Debug)]
pub(crate) struct Served {
    daemon: Option<Daemon>,
    directory: PathBuf,
}

impl Served {
    pub(crate) fn start(namespace: &Namespace, text: &str) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("usnet-goodput-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).map_err(failed("make a directory"))?;
        let mut served = Self { daemon: None, directory };
        let text =
            format!("[control]\nsocket = {:?}\n{text}", served.socket().display().to_string());
        let start = || -> Result<Daemon, String> {
            let config = Config::parse(Path::new("goodput.toml"), &text)
                .map_err(failed("use the configuration"))?;
            let mut prepared =
                Prepared::new(&config, Arc::new(Module)).map_err(failed("make memory"))?;
            let interfaces = ReadyInterface::open_all(&config, &mut prepared)
                .map_err(|error| format!("cannot open an interface: {error:?}"))?;
            Daemon::start(config, prepared, interfaces).map_err(failed("start the daemon"))
        };
        served.daemon = Some(namespace.run(start).map_err(failed("enter a namespace"))??);
        Ok(served)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    fn stack(&self) -> Result<Stack, String> {
        let mut options = StackOptions::named("goodput");
        options.session = Options { socket: self.socket(), ..options.session };
        // What is under way must last until all threads have had a turn; the kernel's own window grows to 6 MiB.
        (options.receive_buffer, options.send_buffer) = (WINDOW, WINDOW);
        Stack::attach(options).map_err(failed("attach"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.daemon.take());
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A client and a kernel that talk to each other through usnetd.
#[derive(Debug)]
pub struct ClientAndKernel {
    stack: Stack,
    _served: Served,
    kernel: Namespace,
    client_at: &'static str,
    kernel_at: &'static str,
    _other: Option<Namespace>,
}

impl ClientAndKernel {
    /// Over a veth, with this kind of port.
    ///
    /// # Errors
    /// The privilege is missing.
    pub fn on_veth(offloads: bool, port: &str) -> Result<Self, String> {
        let Veth { inside, outside } = Veth::new(offloads)?;
        let served = Served::start(&inside, &format!("[[interface]]\nname = \"sv0\"\n{port}\n"))?;
        let stack = served.stack()?;
        Ok(Self {
            stack,
            _served: served,
            kernel: outside,
            client_at: INSIDE,
            kernel_at: OUTSIDE,
            _other: Some(inside),
        })
    }

    /// Over a TAP device, with slots of this size.
    ///
    /// # Errors
    /// The privilege is missing.
    pub fn on_tap(slot_size: u32) -> Result<Self, String> {
        let kernel = Namespace::create().map_err(failed("make a namespace"))?;
        let [client_at, kernel_at] = ON_TAP;
        let text = format!(
            "[memory]\nslot_size = {slot_size}\nport_slots = 1024\n\
             [[interface]]\nname = \"gp0\"\nport = \"tap\"\naddresses = [\"{client_at}/24\"]\n"
        );
        let served = Served::start(&kernel, &text)?;
        let own = prefixed(kernel_at)?;
        kernel
            .run(|| Netlink::open().and_then(|mut netlink| netlink.add_address("gp0", own)))
            .map_err(failed("enter a namespace"))?
            .map_err(failed("set an address"))?;
        let stack = served.stack()?;
        Ok(Self { stack, _served: served, kernel, client_at, kernel_at, _other: None })
    }

    /// Between client and kernel.
    ///
    /// # Errors
    /// No connection.
    pub fn run(&self, direction: Direction, time: Duration) -> Result<f64, String> {
        let (client, kernel) = self.connect()?;
        match direction {
            Direction::Out => transfer(client, kernel, time),
            Direction::In => transfer(kernel, client, time),
        }
    }

    fn connect(&self) -> Result<(ClientStream, TcpStream), String> {
        let at = SocketAddr::new(address(self.client_at)?, 7001);
        let listener = ClientListener::bind(&self.stack, at).map_err(failed("listen"))?;
        let kernel = self
            .kernel
            .run(|| TcpStream::connect_timeout(&at, PATIENCE))
            .map_err(failed("enter a namespace"))?
            .map_err(failed("connect"))?;
        let (client, _) = listener.accept().map_err(failed("accept"))?;
        limit(&kernel)?;
        client.set_read_timeout(Some(PATIENCE)).map_err(failed("set a time limit"))?;
        client.set_write_timeout(Some(PATIENCE)).map_err(failed("set a time limit"))?;
        debug_assert_eq!(kernel.local_addr().ok().map(|a| a.ip()), address(self.kernel_at).ok());
        Ok((client, kernel))
    }
}

/// Two clients of one daemon.
#[derive(Debug)]
pub struct TwoClients {
    stacks: [Stack; 2],
    _served: Served,
}

impl TwoClients {
    /// Without a network, with slots of this size.
    ///
    /// # Errors
    /// No memory.
    pub fn new(slot_size: u32, policy: &str) -> Result<Self, String> {
        let namespace = Namespace::create().map_err(failed("make a namespace"))?;
        let text = format!(
            "[memory]\nslot_size = {slot_size}\nport_slots = 1024\ngroup_slots = 4096\n\
             [[interface]]\nname = \"w0\"\nport = \"wire\"\naddresses = [\"10.7.0.1/24\"]\n\
             [[policy]]\nany = true\nports = [\"any\"]\nown_addresses = {ON_WIRE:?}\n\
             addresses = []\n{policy}\n"
        );
        let served = Served::start(&namespace, &text)?;
        Ok(Self { stacks: [served.stack()?, served.stack()?], _served: served })
    }

    /// From one to the other.
    ///
    /// # Errors
    /// No connection.
    pub fn run(&self, time: Duration) -> Result<f64, String> {
        let [sender, receiver] = &self.stacks;
        let at = receiver.grant().addresses().next().ok_or("a client without an address")?;
        let at = SocketAddr::new(at, 7002);
        let listener = ClientListener::bind(receiver, at).map_err(failed("listen"))?;
        let out =
            ClientStream::connect_timeout(sender, &at, PATIENCE).map_err(failed("connect"))?;
        let (into, _) = listener.accept().map_err(failed("accept"))?;
        into.set_read_timeout(Some(PATIENCE)).map_err(failed("set a time limit"))?;
        out.set_write_timeout(Some(PATIENCE)).map_err(failed("set a time limit"))?;
        transfer(out, into, time)
    }
}
