//! Users and groups by name, from `/etc/passwd` and `/etc/group`.

use super::raw::Account;
use std::fs;

fn lookup(file: &str, name: &str) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    // name:password:number:...
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// The number of a user; `None` if there is none of that name.
pub(super) fn user(account: &Account) -> Option<u32> {
    number(account, "/etc/passwd")
}

/// The number of a group; `None` if there is none of that name.
pub(super) fn group(account: &Account) -> Option<u32> {
    number(account, "/etc/group")
}

fn number(account: &Account, file: &str) -> Option<u32> {
    match account {
        Account::Number(number) => Some(*number),
        Account::Name(name) => lookup(file, name),
    }
}
