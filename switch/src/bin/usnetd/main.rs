//! usnetd
fn main() {}
