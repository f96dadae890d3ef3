//! Programs as they were built for usnetd 0.1: six messages, frames as datagrams, and none of the ways to
//! end or hang the switch that they had.

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as When;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use usnet_tests::lab::{INSIDE, OUTSIDE};
use usnet_tests::{Lab, Running, program};

/// A client's own half of a test, in a process of its own.
const CHILD: &str = "USNET_TESTS_OLD_CLIENT";

/// The gateway beside a lab's usnetd.
struct Gateway {
    socket: PathBuf,
    process: Running,
}

impl Gateway {
    fn start(lab: &Lab) -> Self {
        let socket = lab.directory().join("usnetd.socket");
        let usnetd = program("usnetd").display().to_string();
        let (at, control) = (socket.display().to_string(), lab.socket().display().to_string());
        let arguments = ["compat", "--socket", &at, "--usnetd", &control, "--mode", "0777"];
        let process = Running(lab.inside(&usnetd, &arguments).spawn().expect("the gateway"));
        wait_for(&socket);
        Self { socket, process }
    }
}

/// Waits until somebody serves the socket.
fn wait_for(socket: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    while UnixDatagram::unbound().and_then(|s| s.connect(socket)).is_err() {
        assert!(Instant::now() < end, "nobody serves {}", socket.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program's side of the six messages.
struct Old {
    socket: UnixDatagram,
    path: PathBuf,
    gateway: PathBuf,
}

impl Old {
    fn new(directory: &Path, name: &str, gateway: &Path) -> Self {
        let path = directory.join(name);
        let socket = UnixDatagram::bind(&path).expect("a path");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        Self { socket, path, gateway: gateway.to_owned() }
    }

    fn say(&self, text: &str) {
        self.socket.send_to(text.as_bytes(), &self.gateway).expect("a gateway");
    }

    fn ask(&self, text: &str) -> String {
        self.say(text);
        self.hear()
    }

    fn hear(&self) -> String {
        let mut answer = vec![0; 1 << 20];
        let length = self.socket.recv(&mut answer).expect("an answer");
        String::from_utf8(answer[..length].to_vec()).expect("text")
    }

    /// `RequestUDS`, with a number that is nobody's process.
    fn attach(&self, interface: &str) -> Result<OwnedFd, String> {
        self.say(&format!(r#"{{"RequestUDS":["{interface}",1]}}"#));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut answer = [0; 16];
        let mut parts = [IoSliceMut::new(&mut answer)];
        let message = recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::empty());
        let length = message.expect("an answer").bytes;
        let mut ends: Vec<OwnedFd> = control
            .drain()
            .filter_map(|m| match m {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        match (&answer[..length], ends.len()) {
            (b"$", 1) => Ok(ends.remove(0)),
            (other, 0) => Err(String::from_utf8_lossy(other).into_owned()),
            (other, count) => panic!("{other:?} with {count} descriptors"),
        }
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn matched(protocol: u8, port: u16) -> String {
    let address = format!(r#"{{"Ipv4":"{INSIDE}"}}"#);
    format!(
        r#"{{"AddMatch":{{"dst_addr":{address},"dst_port":{port},"src_addr":null,"src_port":null,"protocol":{protocol}}}}}"#
    )
}

/// The datagrams as smoltcp's device, as usnet_sockets had it.
struct Datagrams(UnixDatagram);

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sent<'a>(&'a UnixDatagram);

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        // What finds no room is lost, as on a wire.
        let _ = self.0.send(&frame);
        result
    }
}

impl Device for Datagrams {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: When) -> Option<(Received, Sent<'_>)> {
        let mut frame = vec![0; 2048];
        let length = self.0.recv(&mut frame).ok()?;
        frame.truncate(length);
        Some((Received(frame), Sent(&self.0)))
    }

    fn transmit(&mut self, _: When) -> Option<Sent<'_>> {
        Some(Sent(&self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.max_transmission_unit = 1514;
        capabilities.medium = Medium::Ethernet;
        capabilities
    }
}

/// A stack over the datagrams: echoes on port 8080, and sends `bytes` bytes to port 9090 of the other host.
fn run_stack(end: OwnedFd, mac: [u8; 6], bytes: usize) {
    let socket = UnixDatagram::from(end);
    socket.set_nonblocking(true).expect("an option");
    let mut device = Datagrams(socket);
    let begin = Instant::now();
    let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
    let mut interface = Interface::new(config, &mut device, When::ZERO);
    let address: std::net::IpAddr = INSIDE.parse().expect("an address");
    interface.update_ip_addrs(|all| all.push(IpCidr::new(address.into(), 24)).expect("room"));
    let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 16]);
    let mut sockets = SocketSet::new(Vec::new());
    let echo = sockets.add(tcp::Socket::new(buffer(), buffer()));
    let caller = sockets.add(tcp::Socket::new(buffer(), buffer()));
    sockets.get_mut::<tcp::Socket<'_>>(echo).listen(8080).expect("a port");
    let there: std::net::IpAddr = OUTSIDE.parse().expect("an address");
    sockets
        .get_mut::<tcp::Socket<'_>>(caller)
        .connect(interface.context(), (there, 9090), 49_152)
        .expect("a way");
    let mut left = bytes;
    while begin.elapsed() < Duration::from_secs(30) {
        let now = When::from_micros(i64::try_from(begin.elapsed().as_micros()).expect("a time"));
        interface.poll(now, &mut device, &mut sockets);
        let socket = sockets.get_mut::<tcp::Socket<'_>>(caller);
        while left > 0 && socket.can_send() {
            left -= socket.send_slice(&[7; 4096][..left.min(4096)]).expect("to send");
        }
        if left == 0 && socket.may_send() {
            socket.close();
        }
        let is_called = left == 0 && !socket.is_active();
        let socket = sockets.get_mut::<tcp::Socket<'_>>(echo);
        while socket.can_recv() && socket.can_send() {
            let mut piece = [0; 4096];
            let room = (socket.send_capacity() - socket.send_queue()).min(piece.len());
            let length = socket.recv_slice(&mut piece[..room]).expect("bytes");
            socket.send_slice(&piece[..length]).expect("room");
        }
        if !socket.may_recv() && socket.may_send() && socket.send_queue() == 0 {
            socket.close();
        }
        if is_called && !socket.is_open() {
            return;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    panic!("the stack has more to do");
}

/// The interface's link address.
fn mac(lab: &Lab) -> [u8; 6] {
    let status = lab.ask(&["status"]);
    let text = usnet_tests::lab::find(&status, "mac").and_then(|m| m.as_str()).expect("a MAC");
    let bytes: Vec<u8> =
        text.split(':').map(|b| u8::from_str_radix(b, 16).expect("a byte")).collect();
    bytes.try_into().expect("six bytes")
}

#[test]
fn a_program_of_the_predecessor_is_called_and_calls_over_tcp() {
    let Some(mut lab) = Lab::hosts() else { return };
    let gateway = lab.directory().join("usnetd.socket");
    let control =
        format!("compat = \"usnetd-0.1\"\ncompat_socket = {:?}", gateway.display().to_string());
    // The port that it calls from, which programs of the predecessor do not claim.
    lab.start_usnetd_with(&control, "flow_ports = [\"tcp/49152\"]\n");
    wait_for(&gateway);
    let old = Old::new(lab.directory(), "old", &gateway);
    let end = old.attach("sv0").expect("a socket");
    assert_eq!(old.ask(&matched(6, 8080)), "OK");
    let (mac, bytes) = (mac(&lab), 300_000);
    let clients = lab.ask(&["client", "list"]);
    assert!(clients.to_string().contains("(0.1)"), "{clients:#}");
    std::thread::scope(|scope| {
        scope.spawn(|| run_stack(end, mac, bytes));
        let outside = || {
            let listener = TcpListener::bind((OUTSIDE, 9090)).expect("a port");
            let mut echo = TcpStream::connect((INSIDE, 8080)).expect("a connection");
            echo.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            let sent: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
            let mut writer = echo.try_clone().expect("a second handle");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&sent).expect("to send");
                    writer.shutdown(std::net::Shutdown::Write).expect("an end");
                });
                let mut came = Vec::new();
                echo.read_to_end(&mut came).expect("the echo");
                assert!(came == sent, "{} of {} bytes came back", came.len(), sent.len());
            });
            listener.set_nonblocking(true).expect("an option");
            let end = Instant::now() + Duration::from_secs(20);
            let mut call = loop {
                match listener.accept() {
                    Ok((call, _)) => break call,
                    Err(_) => assert!(Instant::now() < end, "nobody calls"),
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            call.set_nonblocking(false).expect("an option");
            call.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            let mut came = Vec::new();
            call.read_to_end(&mut came).expect("the call");
            assert_eq!((came.len(), came.iter().all(|b| *b == 7)), (bytes, true));
        };
        lab.outside.run(outside).expect("a namespace");
    });
    lab.finish();
}

#[test]
fn a_gateway_that_is_killed_is_started_again_and_goes_with_usnetd() {
    let Some(mut lab) = Lab::hosts() else { return };
    let gateway = lab.directory().join("usnetd.socket");
    let control =
        format!("compat = \"usnetd-0.1\"\ncompat_socket = {:?}", gateway.display().to_string());
    lab.start_usnetd_with(&control, "");
    wait_for(&gateway);
    let daemon = lab.usnetd().id();
    let path = format!("/proc/{daemon}/task/{daemon}/children");
    // Another child keeps its memory, and has another name.
    let is_gateway = |pid: &&str| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "usnetd\n")
    };
    let child = || -> i32 {
        let text = std::fs::read_to_string(&path).expect("its children");
        text.split_whitespace().find(is_gateway).and_then(|pid| pid.parse().ok()).unwrap_or(0)
    };
    let first = child();
    let pid = rustix::process::Pid::from_raw(first).expect("a gateway");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
    let end = Instant::now() + Duration::from_secs(10);
    while [0, first].contains(&child()) {
        assert!(Instant::now() < end, "it does not come back");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The socket's name was left behind.
    wait_for(&gateway);
    let old = Old::new(lab.directory(), "old", &gateway);
    assert!(old.attach("sv0").is_ok());
    let pid = rustix::process::Pid::from_child(lab.usnetd());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it lives");
    lab.usnetd().wait().expect("its end");
    assert!(!gateway.exists(), "its socket goes, too");
}

#[test]
fn what_ended_or_hung_the_predecessor_is_answered_and_forgotten() {
    let Some(lab) = Lab::with_usnetd("") else { return };
    let mut gateway = Gateway::start(&lab);
    let old = Old::new(lab.directory(), "old", &gateway.socket);
    // Before it is attached, and what is no request at all.
    let long = "x".repeat(5000);
    for text in ["end", "cleanup", "", "{}", "\"", &long, &matched(6, 80)] {
        assert_eq!(old.ask(text), "ER", "{text}");
    }
    let v6 = r#"{"AddMatch":{"dst_addr":{"Ipv6":"fd09::1"},"dst_port":80,"protocol":6}}"#;
    assert_eq!(old.ask(v6), "ER");
    assert_eq!(old.ask(r#"{"RequestNetmapPipe":["sv0",1]}"#), "ER");
    assert_eq!(old.attach("nowhere").unwrap_err(), "ER");
    let end = old.attach("sv0").expect("a socket");
    assert_eq!(old.attach("sv0").unwrap_err(), "ER", "a second one of the same path");
    assert_eq!(old.ask(v6), "OK");
    assert_eq!(old.ask(v6), "ER", "the same again");
    for text in [
        r#"{"AddMatch":{"dst_addr":{"Ipv4":"10.9.0.77"},"dst_port":80,"protocol":6}}"#,
        r#"{"AddMatch":{"src_addr":{"Ipv4":"10.9.0.2"},"protocol":6}}"#,
        r#"{"AddMatch":{"protocol":6}}"#,
        r#"{"AddMatch":{"dst_addr":{"Ipv4":"10.9.0.1.2"},"dst_port":80,"protocol":6}}"#,
    ] {
        assert_eq!(old.ask(text), "ER", "{text}");
    }
    // One sender alone, which is a claim of its own.
    let sender =
        r#"{"AddMatch":{"dst_port":81,"src_addr":{"Ipv4":"10.9.0.2"},"src_port":7,"protocol":6}}"#;
    assert_eq!(old.ask(sender), "OK");
    assert_eq!(old.ask(sender), "ER", "the same again");
    old.say(&sender.replace("AddMatch", "RemoveMatch"));
    assert_eq!(old.ask(sender), "OK", "it was given back");
    let used = old.ask("\"QueryUsedPorts\"");
    assert!(used.starts_with(r#"{"QueryUsedPortsAnswer":{"listening":["#), "{used}");
    assert!(used.contains(r#"[6,{"Ipv6":"fd09::1"},80]"#), "{used}");
    // A dozen answers that nobody reads, and a path that is gone.
    let deaf = Old::new(lab.directory(), "deaf", &gateway.socket);
    (0..40).for_each(|_| deaf.say("\"QueryUsedPorts\""));
    let gone = Old::new(lab.directory(), "gone", &gateway.socket);
    gone.say("\"QueryUsedPorts\"");
    std::fs::remove_file(&gone.path).expect("its path");
    gone.say("\"QueryUsedPorts\"");
    UnixDatagram::unbound().expect("a socket").send_to(b"end", &gateway.socket).expect("a gateway");
    // Another one gets what it asks for, and what the first has it cannot.
    let other = Old::new(lab.directory(), "other", &gateway.socket);
    let _other_end = other.attach("sv0").expect("a socket");
    assert_eq!(other.ask(v6), "ER");
    old.say(&v6.replace("AddMatch", "RemoveMatch"));
    assert_eq!(old.ask(&matched(17, 7)), "OK", "which is told after the other is given back");
    assert_eq!(other.ask(v6), "OK");
    // A detached one's port is another's at once; its socket is of no use.
    old.say("\"DeleteClient\"");
    drop(end);
    let end = Instant::now() + Duration::from_secs(5);
    while other.ask(&matched(17, 7)) != "OK" {
        assert!(Instant::now() < end, "the port does not become free");
    }
    assert!(gateway.process.0.try_wait().expect("its state").is_none(), "the gateway has ended");
    lab.finish();
}

/// Not a test by itself: attaches, claims, says so, and stays until it is killed.
#[test]
fn child() {
    let Some(text) = std::env::var_os(CHILD) else { return };
    let text = text.into_string().expect("text");
    let mut words = text.split(' ');
    let mut next = || PathBuf::from(words.next().expect("a path"));
    let old = Old::new(&next(), "child", &next());
    // In a thread that ends at once: the process is what counts.
    let end = std::thread::scope(|scope| scope.spawn(|| old.attach("sv0")).join());
    match end.expect("a thread") {
        Ok(_end) => {
            println!("{}", old.ask(&matched(17, 7)));
            std::thread::sleep(Duration::from_secs(60));
        }
        Err(text) => println!("{text}"),
    }
}

fn start_child(lab: &Lab, gateway: &Gateway, user: Option<u32>) -> (Running, String) {
    use std::io::BufRead;
    use std::os::unix::process::CommandExt;
    let directory = lab.directory().join("child");
    std::fs::create_dir_all(&directory).expect("a directory");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&directory, mode).expect("its mode");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "child", "--nocapture"]).stdout(Stdio::piped());
    command.env(CHILD, format!("{} {}", directory.display(), gateway.socket.display()));
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let mut child = command.spawn().expect("a child");
    let out = std::io::BufReader::new(child.stdout.take().expect("its output"));
    let mut lines = out.lines().map_while(Result::ok);
    let answer = lines.find(|line| ["OK", "ER"].iter().any(|word| line.ends_with(word)));
    (Running(child), answer.unwrap_or_default())
}

#[test]
fn a_killed_programs_port_is_free_without_any_traffic_and_the_number_that_it_stated_means_nothing()
{
    let Some(lab) = Lab::with_usnetd("") else { return };
    let gateway = Gateway::start(&lab);
    // It states process 1, which lives for ever.
    let (mut child, answer) = start_child(&lab, &gateway, None);
    assert!(answer.ends_with("OK"), "{answer}");
    let old = Old::new(lab.directory(), "old", &gateway.socket);
    let _end = old.attach("sv0").expect("a socket");
    assert_eq!(old.ask(&matched(17, 7)), "ER", "it is the child's");
    child.kill();
    let end = Instant::now() + Duration::from_secs(5);
    while old.ask(&matched(17, 7)) != "OK" {
        assert!(Instant::now() < end, "the port does not become free");
        std::thread::sleep(Duration::from_millis(5));
    }
    lab.finish();
}

#[test]
fn a_user_whom_usnetd_does_not_let_in_does_not_come_in_by_the_gateway() {
    let Some(lab) = Lab::with_usnetd("") else { return };
    if !rustix::process::geteuid().is_root() {
        usnet_tests::skip("only root can play another user");
        return;
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(lab.directory(), mode).expect("its mode");
    let gateway = Gateway::start(&lab);
    let (_child, answer) = start_child(&lab, &gateway, Some(65_534));
    assert!(answer.ends_with("ER"), "{answer}");
    assert_eq!(lab.ask(&["client", "list"]).as_array().map(Vec::len), Some(0));
    lab.finish();
}

#[test]
fn a_program_that_disconnects_its_socket_with_frames_unread_costs_no_processor() {
    let Some(lab) = Lab::with_usnetd("") else { return };
    let mut gateway = Gateway::start(&lab);
    let old = Old::new(lab.directory(), "old", &gateway.socket);
    let end = UnixDatagram::from(old.attach("sv0").expect("a socket"));
    assert_eq!(old.ask(&matched(17, 7)), "OK");
    // Frames that it does not read.
    lab.outside
        .run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
            (0..50).for_each(|_| drop(socket.send_to(b"frame", (INSIDE, 7))));
        })
        .expect("a namespace");
    std::thread::sleep(Duration::from_millis(100));
    let nowhere = rustix::net::SocketAddrUnix::new_unnamed();
    let _ = rustix::net::connect(&end, &nowhere);
    let _ = rustix::net::connect_unspec(&end);
    let parent = gateway.process.0.id();
    let ticks = || -> u64 {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let all = children.expect("its children");
        let of = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<u64> = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|n| n.parse().ok())
                .collect();
            fields.iter().sum::<u64>()
        };
        all.split_whitespace().map(of).sum::<u64>() + of(&parent.to_string())
    };
    std::thread::sleep(Duration::from_millis(300));
    let before = ticks();
    std::thread::sleep(Duration::from_secs(2));
    // A tick is 10 ms; who spins uses 200 of them.
    let used = ticks().saturating_sub(before);
    assert!(used < 40, "{used} ticks in two seconds");
    assert!(gateway.process.0.try_wait().expect("its state").is_none(), "the gateway has ended");
    lab.finish();
}
