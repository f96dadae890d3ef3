//! Programs that tests run: ours, and those of Debian's packages.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Says that a test is left out, or fails where none may be (`USNET_TESTS_REQUIRE_ALL=1`).
///
/// # Panics
/// If no test may be left out.
pub fn skip(why: &str) {
    let required = std::env::var_os("USNET_TESTS_REQUIRE_ALL").is_some_and(|v| v == "1");
    assert!(!required, "this test must run here, but {why}");
    eprintln!("SKIPPED: {why}");
}

/// Whether a program of a Debian package is there; says how to get it if not.
#[must_use]
pub fn is_installed(name: &str, package: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(places).any(|dir| dir.join(name).is_file());
    if !found {
        skip(&format!("{name} is not installed: apt-get install {package}"));
    }
    found
}

/// One of our own programs (`usnetd`, `usnetctl`) or examples of the client library (`http`, `echo`),
/// built as the tests were.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let own = std::env::current_exe().expect("the path of this test");
        let folder = own.ancestors().nth(2).expect("target/PROFILE/deps/test").to_owned();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        for arguments in [["-p", "usnet-switch", "--bins"], ["-p", "usnet", "--examples"]] {
            let mut build = Command::new(&cargo);
            build.arg("build").arg("--quiet").args(arguments);
            if folder.ends_with("release") {
                build.arg("--release");
            }
            build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
            // Wherever this test was built to.
            build.env("CARGO_TARGET_DIR", folder.parent().unwrap_or(&folder));
            let status = build.status().expect("cargo");
            assert!(status.success(), "cargo build {arguments:?} failed");
        }
        folder
    });
    let direct = folder.join(name);
    if direct.is_file() { direct } else { folder.join("examples").join(name) }
}
