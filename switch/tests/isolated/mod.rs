//! Runs a test in a child process with a network namespace of its own, as root or as an ordinary
//! user. Whatever the test leaves there ends with the child.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;
use usnet_switch::net::namespace;

/// Set in the child.
const INSIDE: &str = "USNET_TEST_IS_ISOLATED";

/// Runs `body` isolated; `name` is the test's own name. Skips, and says why, where no namespace can
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
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(INSIDE, name);
    if let Some(user) = user {
        command.uid(user).gid(user).current_dir("/");
    }
    namespace::isolate(&mut command);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return skip(name, &namespace::explain(error).to_string()),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}, isolated:\n{text}{errors}");
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
