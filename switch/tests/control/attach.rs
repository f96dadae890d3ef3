//! Sessions of clients that behave, and their ends.

use crate::daemon::{Daemon, until};
use crate::peer::{Client, Peer, TCP, UDP, claim, wish};
use rustix::process::{Pid, Signal, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_uid};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use usnet_shmring::control::{Mode, RefusalCode, name_into};

#[test]
fn a_raw_client_attaches_claims_and_hears_another() {
    let daemon = Daemon::start("");
    let mut a = Client::attach(&daemon.socket(), "a");
    let mut b = Client::attach(&daemon.socket(), "b");
    assert_eq!(a.attached.mode, Mode::Isolated as u32);
    assert_eq!((a.attached.ring_capacity, a.attached.mtu), (64, 1500));
    assert_eq!(a.attached.ipv4.ip(), Some("10.77.0.1".parse().unwrap()));
    assert_eq!((a.attached.ipv4.prefix, a.attached.ipv6.prefix), (24, 64));
    a.peer.claim(claim(UDP, 5000, 1)).unwrap();
    let block = b.peer.claim(claim(UDP, 0, 16)).unwrap();
    assert!(block.first_port >= 1024 && block.count == 16, "{block:?}");
    for number in 0..200_u32 {
        let frame = b.datagram(block.first_port + 3, 5000, &number.to_be_bytes());
        until("a slot", || {
            b.view.transmitter.reclaim().unwrap();
            (b.view.transmitter.free() > 0).then_some(())
        });
        b.transmit(&frame);
        assert_eq!(a.receive_frame(), frame);
    }
    let clients = daemon.clients();
    assert_eq!(clients.len(), 2);
    assert_eq!((&clients[0]["name"], &clients[1]["name"]), (&"a".into(), &"b".into()));
    assert_eq!(clients[0]["counters"]["delivered"], 200);
    assert_eq!(clients[1]["counters"]["sent"], 200);
    assert_eq!(clients[0]["pid"], std::process::id());
    drop((a, b));
    daemon.is_clean();
}

#[test]
fn a_claim_that_another_holds_is_refused_with_the_holder() {
    let daemon = Daemon::start("");
    let mut a = Client::attach(&daemon.socket(), "a");
    let mut b = Client::attach(&daemon.socket(), "b");
    let granted = a.peer.claim(claim(TCP, 8000, 10)).unwrap();
    let (code, words) = b.peer.claim(claim(TCP, 8005, 1)).unwrap_err();
    assert_eq!(code, RefusalCode::InUse);
    assert_eq!(
        words,
        format!("port 8005 of tcp at 10.77.0.1 is held by session {} (a)", a.attached.session)
    );
    let (code, words) = b.peer.claim(claim(TCP, 22, 1)).unwrap_err();
    assert_eq!((code, words.contains("held by the host")), (RefusalCode::InUse, true), "{words}");
    let (code, _) = b.peer.release(granted).unwrap_err();
    assert_eq!(code, RefusalCode::NotFound);
    a.peer.release(granted).unwrap();
    b.peer.claim(claim(TCP, 8005, 1)).unwrap();
    let rules = daemon.rules();
    assert_eq!(rules.len(), 2, "one for each address: {rules:?}");
    assert_eq!((&rules[0]["client"], &rules[0]["name"]), (&1.into(), &"b".into()));
    let (code, _) = b.peer.claim(claim(1, 0, 1)).unwrap_err();
    assert_eq!(code, RefusalCode::NotPermitted);
}

#[test]
fn what_is_not_there_is_refused_in_words() {
    let daemon = Daemon::start("");
    let refused = |change: &dyn Fn(&mut usnet_shmring::control::Attach)| {
        let mut wish = wish("x");
        change(&mut wish);
        Peer::connect(&daemon.socket()).attach(&wish).unwrap_err()
    };
    let (code, words) = refused(&|w| w.interface = name_into("eth9"));
    assert_eq!(code, RefusalCode::NotFound);
    assert_eq!(words, "no interface is named \"eth9\"; there are: w0");
    let (code, words) = refused(&|w| w.version = 99);
    assert_eq!(
        (code, words.as_str()),
        (RefusalCode::Version, "this daemon speaks version 3, not 99")
    );
    // After a refusal the same connection may try again.
    let mut peer = Peer::connect(&daemon.socket());
    let wrong = usnet_shmring::control::Message::Attach(usnet_shmring::control::Attach {
        version: 1,
        ..wish("x")
    });
    peer.ask(&wrong).unwrap_err();
    peer.attach(&wish("x")).unwrap();
}

#[test]
fn quotas_of_the_policy_are_kept() {
    let daemon = Daemon::start(
        "[[policy]]\nany = true\nports = [\"udp/5000-5100\"]\n\
         quota = { sessions = 2, ports = 10, ring_capacity = 32 }\n",
    );
    let mut a = Client::attach(&daemon.socket(), "a");
    let mut b = Client::attach(&daemon.socket(), "b");
    assert_eq!(a.attached.ring_capacity, 32, "the wish of 64 is cut");
    let refused = Peer::connect(&daemon.socket()).attach(&wish("c")).unwrap_err();
    let words = "the limit of 2 sessions for this user is reached".to_owned();
    assert_eq!(refused, (RefusalCode::Exhausted, words));
    a.peer.claim(claim(UDP, 5000, 6)).unwrap();
    assert_eq!(b.peer.claim(claim(UDP, 5010, 5)).unwrap_err().0, RefusalCode::Exhausted);
    b.peer.claim(claim(UDP, 5010, 4)).unwrap();
    let (code, words) = a.peer.claim(claim(TCP, 5050, 1)).unwrap_err();
    assert_eq!(code, RefusalCode::NotPermitted);
    assert!(words.ends_with("it allows: udp/5000-5100"), "{words}");
    drop(a);
    until("the place to be free again", || Peer::connect(&daemon.socket()).attach(&wish("c")).ok());
}

/// Does something on a thread that is user 65534, nobody, to the kernel and to the daemon.
pub(crate) fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("USNET_TESTS_REQUIRE_ALL").is_none(),
            "needs root, to speak for another user"
        );
        eprintln!("skipped: needs root, to speak for another user");
        return None;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set_thread_groups(&[]).unwrap();
            let nobody = Uid::from_raw(65_534);
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
            work()
        });
        Some(thread.join().unwrap())
    })
}

#[test]
fn a_user_whom_no_policy_names_may_neither_attach_nor_look() {
    let daemon = Daemon::start("");
    let socket = daemon.socket();
    as_nobody(|| {
        let (code, words) = Peer::connect(&socket).attach(&wish("x")).unwrap_err();
        assert_eq!(code, RefusalCode::NotPermitted);
        assert_eq!(words, "no policy lets user 65534 attach to w0");
        let query = usnet_shmring::control::Query { what: 2, which: 0 };
        let asked = Peer::connect(&socket).ask(&usnet_shmring::control::Message::Query(query));
        assert_eq!(asked.unwrap_err().0, RefusalCode::NotPermitted);
    });
}

#[test]
fn a_user_whom_a_policy_names_may_look_but_not_end_others() {
    let daemon = Daemon::start("[[policy]]\nuid = 65534\n");
    let socket = daemon.socket();
    let victim = Client::attach(&socket, "victim");
    as_nobody(|| {
        let mut peer = Peer::connect(&socket);
        let mut ask = |what, which| {
            peer.ask(&usnet_shmring::control::Message::Query(usnet_shmring::control::Query {
                what,
                which,
            }))
        };
        ask(1, 0).unwrap();
        assert_eq!(ask(5, 0).unwrap_err().0, RefusalCode::NotPermitted);
        let mut own = Client::attach(&socket, "own");
        assert_eq!(own.peer.claim(claim(TCP, 80, 1)).unwrap_err().0, RefusalCode::NotPermitted);
        own.peer.claim(claim(TCP, 8080, 1)).unwrap();
    });
    assert!(daemon.clients().iter().any(|c| c["id"] == victim.attached.session));
}

#[test]
fn sessions_of_a_group_share_memory_that_comes_back() {
    let policy = "[[policy]]\nany = true\nmode = \"shared\"\ngroup = \"g\"\n";
    let daemon = Daemon::start(policy);
    let mut big = wish("big");
    (big.ring_capacity, big.transmit_slots) = (512, 400);
    for round in 0..5 {
        let mut a = Peer::connect(&daemon.socket()).attach(&big).unwrap();
        let mut b = Peer::connect(&daemon.socket()).attach(&big).unwrap();
        assert_eq!(a.attached.mode, Mode::Shared as u32);
        let full = Peer::connect(&daemon.socket()).attach(&big).unwrap_err();
        assert_eq!(full.0, RefusalCode::Exhausted, "round {round}: {}", full.1);
        a.peer.claim(claim(UDP, 5000, 1)).unwrap();
        b.peer.claim(claim(UDP, 5001, 1)).unwrap();
        let frame = b.datagram(5001, 5000, b"as it lies");
        b.transmit(&frame);
        assert_eq!(a.receive_frame(), frame);
        assert_eq!(daemon.clients()[0]["group"], "g");
        drop((a, b));
        daemon.is_clean();
    }
}

#[test]
fn each_session_gets_an_address_of_its_own_from_the_pool() {
    let policy = "[[policy]]\nany = true\nown_addresses = [\"10.77.0.7\", \"10.77.0.8\"]\n";
    let daemon = Daemon::start(policy);
    let a = Client::attach(&daemon.socket(), "a");
    let mut b = Client::attach(&daemon.socket(), "b");
    assert_eq!(a.attached.ipv4.ip(), Some("10.77.0.7".parse().unwrap()));
    assert_eq!(b.attached.ipv4.ip(), Some("10.77.0.8".parse().unwrap()));
    assert_eq!(b.attached.ipv4.prefix, 24);
    let address = usnet_shmring::control::Address { prefix: 32, ..b.attached.ipv4 };
    let low = usnet_shmring::control::Claim { address, ..claim(TCP, 80, 1) };
    b.peer.claim(low).unwrap();
    let refused = Peer::connect(&daemon.socket()).attach(&wish("c")).unwrap_err();
    assert_eq!(refused.0, RefusalCode::Exhausted);
    drop(a);
    let c = until("the address to be free again", || {
        Peer::connect(&daemon.socket()).attach(&wish("c")).ok()
    });
    assert_eq!(c.attached.ipv4.ip(), Some("10.77.0.7".parse().unwrap()));
}

const CHILD: &str = "USNET_TEST_CHILD_SOCKET";

/// Not a test by itself: what [`spawn_client`] runs.
#[test]
#[expect(clippy::zombie_processes, reason = "outlives this process, which is killed")]
fn a_client_in_a_process_of_its_own() {
    let Some(socket) = std::env::var_os(CHILD) else { return };
    let mut client = Client::attach(socket.as_ref(), "child");
    client.peer.claim(claim(UDP, 7000, 100)).unwrap();
    // A child of this child keeps the connection open.
    let mut flags = rustix::io::fcntl_getfd(&client.peer.channel).unwrap();
    flags.remove(rustix::io::FdFlags::CLOEXEC);
    rustix::io::fcntl_setfd(&client.peer.channel, flags).unwrap();
    let keeper = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    println!("ready {}", keeper.id());
    loop {
        // Traffic to itself, so that slots are on their way when the end comes.
        let frame = client.datagram(7000, 7001, &[0; 100]);
        client.view.transmitter.reclaim().unwrap();
        if client.view.transmitter.free() > 0 {
            client.transmit(&frame);
        }
    }
}

/// Another process; it ends with the test, however that goes.
struct Keeper(Pid);

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
    }
}

/// A client in another process, and the process that holds its connection too.
fn spawn_client(daemon: &Daemon) -> (Child, Keeper) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "attach::a_client_in_a_process_of_its_own", "--nocapture"])
        .env(CHILD, daemon.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map(Result::unwrap).find_map(|line| {
        line.split_once("ready ").map(|(_, pid)| pid.trim().parse::<i32>().unwrap())
    });
    let keeper = ready.and_then(Pid::from_raw).expect("the child says that it is ready");
    (child, Keeper(keeper))
}

#[test]
fn a_killed_clients_session_ends_although_a_child_of_it_holds_the_connection() {
    let daemon = Daemon::start("");
    let (mut child, keeper) = spawn_client(&daemon);
    assert_eq!(daemon.rules().len(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    // The connection is still open in the other process; only the pidfd tells.
    until("the session to end", || daemon.clients().is_empty().then_some(()));
    assert!(std::path::Path::new(&format!("/proc/{}", keeper.0.as_raw_pid())).exists());
    daemon.is_clean();
    let mut heir = Client::attach(&daemon.socket(), "heir");
    heir.peer.claim(claim(UDP, 7000, 100)).unwrap();
}

#[test]
fn sessions_that_come_and_go_leave_nothing_behind() {
    let daemon = Daemon::start("");
    let cycle = || {
        let mut client = Client::attach(&daemon.socket(), "c");
        client.peer.claim(claim(TCP, 0, 64)).unwrap();
        let frame = client.datagram(1, 2, b"refused: a port that it does not hold");
        client.transmit(&frame);
        client
    };
    drop(cycle());
    daemon.is_clean();
    let before = until("descriptors to settle", || Some(daemon.descriptors()));
    for _ in 0..100 {
        drop(cycle());
    }
    daemon.is_clean();
    until("descriptors to be closed", || (daemon.descriptors() <= before).then_some(()));
}

#[test]
fn nothing_moves_and_the_daemon_uses_no_processor() {
    let daemon = Daemon::start("");
    let _client = Client::attach(&daemon.socket(), "c");
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split(' ').filter_map(|f| f.parse().ok()).collect();
        // utime and stime, in ticks of 10 ms; the state before them is no number.
        fields[10] + fields[11]
    };
    std::thread::sleep(std::time::Duration::from_millis(300));
    let before = used();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let ticks = used() - before;
    assert!(ticks <= 10, "{ticks} ticks of 10 ms in 2 s");
}
