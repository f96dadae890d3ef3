//! Runs a test in a child process with a network namespace of its own, as root or as an ordinary
//! user. Whatever the test leaves there ends with the child.
//!
//! ```text
//!   namespace of the test             namespace `peer`
//!   sv0  10.9.0.1/24  fd09::1/64 ---- pv0  10.9.0.2/24  fd09::2/64
//! ```

#![allow(dead_code, reason = "each test file uses a part")]

use std::env;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use usnet_switch::net::namespace::{self, Namespace};
use usnet_switch::net::{InterfaceAddress, Netlink};

/// Set in the child.
const INSIDE: &str = "USNET_TEST_IS_ISOLATED";

/// Runs `body` isolated; `name` is the test's own name (with its modules). Skips, and says why, where no namespace can
/// be had, unless `USNET_TESTS_REQUIRE_ALL=1`.
pub(crate) fn isolated(name: &str, body: impl FnOnce()) {
    isolated_as(None, name, body);
}

/// As [`isolated`], by another user (which needs root).
pub(crate) fn isolated_as(user: Option<u32>, name: &str, body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some_and(|inside| inside == name) {
        namespace::bring_loopback_up().unwrap();
        return body();
    }
    // This program by its open file, since another user may not be let into its directory.
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1", "--include-ignored"])
        .env(INSIDE, name);
    if let Some(user) = user {
        command.uid(user).gid(user).current_dir("/");
    }
    namespace::isolate(&mut command);
    namespace::die_with_parent(&mut command);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return skip(name, &namespace::explain(error).to_string()),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}, isolated:\n{text}{errors}");
    eprint!("{errors}");
    assert!(text.contains("1 passed"), "{name} is not the name of the test:\n{text}");
}

/// Says that a test is left out, or fails if none may be.
pub(crate) fn skip(name: &str, reason: &str) {
    assert!(
        env::var_os("USNET_TESTS_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{name} cannot run: {reason}"
    );
    eprintln!("{name} is SKIPPED: {reason}");
}

/// An address and its prefix length, from text.
pub(crate) fn address(text: &str) -> InterfaceAddress {
    let (ip, prefix_len) = text.split_once('/').unwrap();
    InterfaceAddress::new(ip.parse().unwrap(), prefix_len.parse().unwrap())
}

/// The two hosts of the picture above; the second one.
pub(crate) fn two_hosts() -> Namespace {
    two_hosts_with(None)
}

/// The same with so many queues of each direction at both ends.
pub(crate) fn two_hosts_with(queues: Option<u32>) -> Namespace {
    let peer = Namespace::create().unwrap();
    let mut net = Netlink::open().unwrap();
    net.add_veth_of(queues, "sv0", "pv0", Some(peer.as_fd())).unwrap();
    net.add_address("sv0", address("10.9.0.1/24")).unwrap();
    net.add_address("sv0", address("fd09::1/64")).unwrap();
    net.set_up("sv0").unwrap();
    peer.run(|| {
        let mut net = Netlink::open().unwrap();
        net.add_address("pv0", address("10.9.0.2/24")).unwrap();
        net.add_address("pv0", address("fd09::2/64")).unwrap();
        net.set_up("pv0").unwrap();
    })
    .unwrap();
    peer
}
