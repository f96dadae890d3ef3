//! usnetctl
fn main() {}
