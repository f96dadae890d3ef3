//! What the kernel's stack has beside the clients, for people.

use crate::show::{cell, list, ports};
use crate::table::Table;
use serde_json::Value;

/// `tcp/22 (from 10.0.0.0/8), udp/5000-5009`.
fn words(all: &Value) -> String {
    let word = |one: &Value| {
        let from = one["remote"].as_str().map_or(String::new(), |from| format!(" (from {from})"));
        let at = one["address"].as_str().map_or(String::new(), |at| format!("{at} "));
        format!("{at}{}/{}{from}", cell(&one["protocol"]), ports(one))
    };
    match list(all) {
        [] => "none".into(),
        all => all.iter().map(word).collect::<Vec<_>>().join(", "),
    }
}

/// One part for each interface: what is kept for whom, and a line for each socket.
pub(crate) fn host(answer: &Value) -> String {
    let mut text = String::new();
    for interface in list(answer) {
        if !text.is_empty() {
            text.push('\n');
        }
        let ifname = cell(&interface["ifname"]);
        if interface["is_shared"] == false {
            text += &format!(
                "{ifname}: the kernel's stack does not share the addresses of this interface\n"
            );
            continue;
        }
        text += &format!("{ifname}: host by {}\n", cell(&interface["host_endpoint"]));
        text += &format!("  kept for the kernel: {}\n", words(&interface["host_ports"]));
        text += &format!("  clients send from:   {}\n", words(&interface["flow_ports"]));
        text += &format!("  held for clients:    {}\n", words(&interface["held"]));
        let mut table =
            Table::new(&["PROTOCOL", "LOCAL", "REMOTE", "STATE", "UID", "PID", "PROGRAM"]);
        for socket in list(&interface["sockets"]) {
            let keys = ["protocol", "local", "remote", "state", "uid", "pid", "program"];
            table.row(keys.iter().map(|key| cell(&socket[*key])).collect());
        }
        text += &table.render();
        match interface["left_out"].as_u64() {
            None | Some(0) => {}
            Some(more) => text += &format!("({more} sockets more are left out)\n"),
        }
    }
    text
}
