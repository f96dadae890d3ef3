//! What a killed usnetd had changed is put back from its record: by the next start, or by `usnetd restore`.
//!
//! ```text
//!   usnetd (a process) on sv0: receive offload off --SIGKILL--> off, and a record --next start--> as before
//! ```

mod isolated;
mod served;

use isolated::{isolated, two_hosts};
use served::until;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use usnet_shmring::control::Channel;
use usnet_switch::net::offload::{Offload, Offloads};
use usnet_switch::net::{Channels, Netlink};

/// A directory with a configuration for `sv0`, a socket and records; it goes with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        Self::with(name, "")
    }

    /// `rest` follows the interface's name.
    fn with(name: &str, rest: &str) -> Self {
        let place = Self(std::env::temp_dir().join(format!("usnet-{name}-{}", std::process::id())));
        std::fs::create_dir(&place.0).unwrap();
        let text = format!(
            "[control]\nsocket = {:?}\nstate_dir = {:?}\n[memory]\nport_slots = 1024\n\
             [[interface]]\nname = \"sv0\"\n{rest}",
            place.0.join("control.sock"),
            place.records()
        );
        std::fs::write(place.0.join("usnetd.toml"), text).unwrap();
        place
    }

    fn records(&self) -> PathBuf {
        self.0.join("state")
    }

    /// The files of the records, by the end of their names.
    fn files(&self, end: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.records()).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.to_string_lossy().ends_with(end)).collect()
    }

    /// A usnetd that serves.
    fn usnetd(&self) -> Usnetd {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usnetd"));
        command.arg("run").arg("--config").arg(self.0.join("usnetd.toml"));
        command.stdin(Stdio::null());
        usnet_switch::net::namespace::die_with_parent(&mut command);
        let mut child = Usnetd(command.spawn().unwrap());
        until("usnetd to serve", || {
            assert!(child.0.try_wait().unwrap().is_none(), "usnetd has ended");
            Channel::connect(&self.0.join("control.sock")).ok()
        });
        child
    }

    /// Starts one and kills it, without a chance to put anything back.
    fn kill_one(&self) {
        let mut usnetd = self.usnetd();
        assert_eq!(receive_offload(), Some(false), "changed while it runs");
        usnetd.0.kill().unwrap();
        usnetd.0.wait().unwrap();
        assert_eq!(self.files(".json").len(), 1, "the record of what was changed");
    }

    fn restore(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usnetd"));
        command.arg("restore").arg(self.records());
        command.output().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Usnetd(Child);

impl Usnetd {
    /// Asks it to stop, and waits.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        until("its end", || self.0.try_wait().unwrap());
    }
}

impl Drop for Usnetd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn receive_offload() -> Option<bool> {
    Offloads::of("sv0").unwrap().get(Offload::GenericReceive).unwrap()
}

fn set_receive_offload(on: bool) {
    Offloads::of("sv0").unwrap().set(Offload::GenericReceive, on).unwrap();
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_next_start_puts_back_what_a_killed_one_had_changed() {
    isolated("the_next_start_puts_back_what_a_killed_one_had_changed", || {
        let _peer = two_hosts();
        set_receive_offload(true);
        let place = Place::new("next");
        for _ in 0..2 {
            place.kill_one();
            assert_eq!(receive_offload(), Some(false), "nobody has put it back");
        }
        let usnetd = place.usnetd();
        assert_eq!(receive_offload(), Some(false), "as long as it runs");
        usnetd.stop();
        assert_eq!(receive_offload(), Some(true), "as it was before the first start");
        assert_eq!(place.files("").len(), 0, "and no record is left");
    });
}

#[test]
fn restore_puts_back_what_a_killed_one_had_changed_and_nothing_of_one_that_runs() {
    let name = "restore_puts_back_what_a_killed_one_had_changed_and_nothing_of_one_that_runs";
    isolated(name, || {
        let _peer = two_hosts();
        set_receive_offload(true);
        let place = Place::new("restore");
        let usnetd = place.usnetd();
        let said = place.restore();
        assert!(said.status.success() && text(&said).contains("of a usnetd that runs"), "{said:?}");
        assert_eq!(receive_offload(), Some(false), "it is in use");
        usnetd.stop();
        place.kill_one();
        let said = place.restore();
        assert!(
            said.status.success() && text(&said).contains("sv0: 1 setting put back"),
            "{said:?}"
        );
        assert_eq!(receive_offload(), Some(true));
        let said = place.restore();
        assert!(said.status.success() && text(&said).contains("nothing to put back"), "{said:?}");
    });
}

#[test]
fn another_interface_of_the_same_name_is_left_alone() {
    isolated("another_interface_of_the_same_name_is_left_alone", || {
        let peer = two_hosts();
        set_receive_offload(true);
        let place = Place::new("another");
        place.kill_one();
        Netlink::open().unwrap().delete_link("sv0").unwrap();
        drop(peer);
        let _peer = two_hosts();
        set_receive_offload(false);
        let said = place.restore();
        assert!(said.status.success(), "{said:?}");
        assert_eq!(receive_offload(), Some(false), "it was never usnetd's");
        assert_eq!(place.files("").len(), 0, "the record is of no use any more");
    });
}

#[test]
fn a_record_that_cannot_be_read_is_set_aside_with_all_that_it_holds() {
    isolated("a_record_that_cannot_be_read_is_set_aside_with_all_that_it_holds", || {
        let _peer = two_hosts();
        set_receive_offload(true);
        let place = Place::new("unreadable");
        place.kill_one();
        let [path] = &place.files(".json")[..] else { panic!() };
        let whole = std::fs::read(path).unwrap();
        std::fs::write(path, &whole[..whole.len() / 2]).unwrap();
        let said = place.restore();
        assert!(!said.status.success() && text(&said).contains("cannot be read"), "{said:?}");
        let [aside] = &place.files(".unreadable")[..] else { panic!("{said:?}") };
        assert_eq!(std::fs::read(aside).unwrap(), &whole[..whole.len() / 2]);
        assert!(!Path::new(path).exists());
        // It keeps no usnetd from starting.
        place.usnetd().stop();
    });
}

#[test]
fn queues_that_the_workers_were_given_are_taken_back() {
    let name = "queues_that_the_workers_were_given_are_taken_back";
    if !rustix::process::geteuid().is_root() {
        return isolated::skip(name, "XDP programs can only be loaded as root");
    }
    isolated(name, || {
        let _peer = two_hosts();
        set_receive_offload(true);
        let before = Channels::of("sv0").unwrap();
        let place = Place::with("queues", "port = \"af_xdp\"\n[worker]\ncount = 2\n");
        place.kill_one();
        assert_eq!((before.receiving(), Channels::of("sv0").unwrap().receiving()), (1, 2));
        let said = place.restore();
        assert!(said.status.success() && text(&said).contains("settings put back"), "{said:?}");
        assert_eq!(Channels::of("sv0").unwrap(), before);
    });
}

#[test]
fn a_record_of_a_usnetd_that_did_not_look_at_indirection_tables_is_carried_out() {
    let name = "a_record_of_a_usnetd_that_did_not_look_at_indirection_tables_is_carried_out";
    isolated(name, || {
        let _peer = two_hosts();
        set_receive_offload(true);
        let place = Place::new("older");
        place.kill_one();
        let [path] = &place.files(".json")[..] else { panic!() };
        let mut record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for field in ["indirection", "rss"] {
            assert!(record.as_object_mut().unwrap().remove(field).is_some(), "{record}");
        }
        std::fs::write(path, record.to_string()).unwrap();
        let said = place.restore();
        assert!(text(&said).contains("sv0: 1 setting put back"), "{said:?}");
        assert_eq!(receive_offload(), Some(true));
    });
}

#[test]
fn a_queueing_discipline_that_was_replaced_is_put_back() {
    isolated("a_queueing_discipline_that_was_replaced_is_put_back", || {
        let _peer = two_hosts();
        let place = Place::new("qdisc");
        set_receive_offload(true);
        place.kill_one();
        // As over netmap, whose generic adapter leaves a pfifo behind.
        let [path] = &place.files(".json")[..] else { panic!() };
        let record = std::fs::read_to_string(path).unwrap();
        let other = record.replace("\"qdisc\": null", "\"qdisc\": \"noqueue\"");
        assert_ne!(record, other);
        std::fs::write(path, other).unwrap();
        let replaced =
            Command::new("tc").args(["qdisc", "add", "dev", "sv0", "root", "pfifo"]).status();
        if !replaced.is_ok_and(|status| status.success()) {
            return isolated::skip("qdisc", "no tc; install iproute2");
        }
        let said = place.restore();
        assert!(text(&said).contains("sv0: 2 settings put back"), "{said:?}");
        let qdisc = Netlink::open().unwrap().link("sv0").unwrap().qdisc;
        assert_eq!(qdisc.as_deref(), Some("noqueue"));
    });
}

/// What is otherwise while usnetd serves an interface: an offload, the host endpoint, the guard.
fn traces() -> (Option<bool>, bool, bool) {
    let has_endpoint = Netlink::open().unwrap().link("u-sv0").is_ok();
    let guards = Command::new("nft").args(["list", "tables", "netdev"]).output();
    let has_guard = guards.is_ok_and(|output| text(&output).contains("usnet"));
    (receive_offload(), has_endpoint, has_guard)
}

#[test]
fn an_interface_that_goes_is_put_back_while_usnetd_runs_and_can_come_again() {
    let name = "an_interface_that_goes_is_put_back_while_usnetd_runs_and_can_come_again";
    isolated(name, || {
        // A program of the kernel's, there all the time.
        let kernel = std::net::UdpSocket::bind("0.0.0.0:9001").unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 8];
            while let Ok((length, from)) = kernel.recv_from(&mut bytes) {
                let _ = kernel.send_to(&bytes[..length], from);
            }
        });
        comes_and_goes("af_packet");
        if rustix::process::geteuid().is_root() {
            comes_and_goes("af_xdp");
        } else {
            isolated::skip(name, "XDP programs can only be loaded as root");
        }
    });
}

fn comes_and_goes(port: &str) {
    let peer = two_hosts();
    set_receive_offload(true);
    let before = traces();
    let rest = format!(
        "port = \"{port}\"\n[[interface]]\nname = \"w0\"\nport = \"wire\"\naddresses = [\"10.77.0.1/24\"]\n"
    );
    let place = Place::with(&format!("goes-{port}"), &rest);
    let whole = place.0.join("usnetd.toml");
    let less = place.0.join("less.toml");
    let both = std::fs::read_to_string(&whole).unwrap();
    let sv0 = both.find("[[interface]]").unwrap()..both.rfind("[[interface]]").unwrap();
    std::fs::write(&less, both.replace(&both[sv0], "")).unwrap();
    let usnetd = place.usnetd();
    let ctl = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usnetctl"));
        command.arg("--socket").arg(place.0.join("control.sock")).args(arguments);
        command.output().unwrap()
    };
    let apply = |file: &Path| ctl(&["config", "apply", file.to_str().unwrap()]);
    let asks = |port: u16| {
        let socket = peer.run(|| std::net::UdpSocket::bind("10.9.0.2:0").unwrap()).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        until("the answer", || {
            let _ = socket.send_to(b"?", ("10.9.0.1", port));
            socket.recv(&mut [0; 8]).ok()
        })
    };
    // A client is there while the interface is.
    for _ in 0..2 {
        let mut options = usnet::stack::StackOptions::named("echo");
        options.session.socket = place.0.join("control.sock");
        options.session.interface = "sv0".into();
        let stack = usnet::stack::Stack::attach(options).unwrap();
        let socket = usnet::net::UdpSocket::bind(&stack, "0.0.0.0:9000").unwrap();
        let client = std::thread::spawn(move || {
            let mut bytes = [0; 8];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(&bytes[..length], from);
            }
        });
        asks(9000);
        asks(9001);
        let (offload, endpoint, _) = traces();
        assert_eq!((offload, endpoint), (Some(false), true), "while it is served");
        assert_eq!(place.files(".json").len(), 1);

        let said = apply(&less);
        assert!(said.status.success(), "{said:?}");
        client.join().unwrap();
        assert_eq!(traces(), before, "as it was before usnetd");
        assert_eq!(place.files("").len(), 0, "and no record is left");
        asks(9001);
        std::net::UdpSocket::bind("10.9.0.1:9000").expect("the port is the kernel's again");

        // It cannot come while it is down, and is not touched by the attempt.
        let mut net = Netlink::open().unwrap();
        net.set_down("sv0").unwrap();
        let said = apply(&whole);
        assert!(!said.status.success() && text(&said).contains("is down"), "{said:?}");
        assert_eq!((traces(), place.files("").len()), (before, 0));
        net.set_up("sv0").unwrap();
        let said = apply(&whole);
        assert!(said.status.success(), "{said:?}");
    }
    let stats = text(&ctl(&["--json", "stats"]));
    for sum in ["frames_conserved", "slots_conserved"] {
        assert!(
            stats.contains(&format!("\"{sum}\":true"))
                || stats.contains(&format!("\"{sum}\": true")),
            "{stats}"
        );
    }
    usnetd.stop();
    assert_eq!(traces(), before);
    Netlink::open().unwrap().delete_link("sv0").unwrap();
}
