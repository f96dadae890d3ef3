//! Answers for people. Whatever is missing in an answer is shown as `-`.

use crate::table::Table;
use serde_json::Value;

/// One value in a cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Array(list) if list.is_empty() => "-".into(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The entries of an object as `name count`, summed up if `value` is no object.
fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn sum(value: &Value) -> u64 {
    entries(value).filter_map(|(_, count)| count.as_u64()).sum()
}

/// `80` or `8000-8010`; `all` of a prefix, `-` where there are none.
pub(crate) fn ports(rule: &Value) -> String {
    let (first, last) = (cell(&rule["first_port"]), cell(&rule["last_port"]));
    if (first.as_str(), last.as_str()) == ("0", "65535") {
        "all".into()
    } else if first == "0" {
        "-".into()
    } else if first == last {
        first
    } else {
        format!("{first}-{last}")
    }
}

fn claim(claim: &Value) -> String {
    format!("{}/{}", cell(&claim["protocol"]), ports(claim))
}

fn claims(client: &Value) -> String {
    match list(&client["claims"]) {
        [] => "-".into(),
        all => all.iter().map(claim).collect::<Vec<_>>().join(","),
    }
}

fn port(port: &Value) -> String {
    match (&port["name"], port["gone"].as_bool()) {
        (Value::Null, _) => "-".into(),
        (name, Some(true)) => format!("{} (failed)", cell(name)),
        (name, _) => match port["mode"].as_str() {
            Some(mode) => format!("{} ({}, {mode})", cell(name), cell(&port["backend"])),
            None => format!("{} ({})", cell(name), cell(&port["backend"])),
        },
    }
}

/// The port to the network; of a VLAN, which one it is.
fn wire(interface: &Value) -> String {
    let vlan = &interface["vlan"];
    if vlan.is_null() {
        return port(&interface["wire"]);
    }
    format!("vlan {} of {}", cell(&vlan["id"]), cell(&vlan["of"]))
}

/// `up`, `link down`, `gone 12 s`, and how often it came back.
fn state(interface: &Value) -> String {
    let state = match (interface["state"].as_str(), interface["link"].as_str()) {
        (Some("gone"), _) => format!("gone {} s", cell(&interface["gone_s"])),
        (_, Some("down")) => "link down".into(),
        (state, _) => state.unwrap_or("-").into(),
    };
    match interface["reopened"].as_u64() {
        None | Some(0) => state,
        Some(times) => format!("{state}, reopened {times}"),
    }
}

/// Interfaces, one a line.
pub(crate) fn nics(interfaces: &Value) -> String {
    let head = [
        "IFNAME",
        "STATE",
        "MAC",
        "MTU",
        "ADDRESSES",
        "GATEWAYS",
        "WIRE",
        "HOST",
        "CLIENTS",
        "FLOWS",
    ];
    let mut table = Table::new(&head);
    for interface in list(interfaces) {
        table.row(vec![
            cell(&interface["ifname"]),
            state(interface),
            cell(&interface["mac"]),
            cell(&interface["mtu"]),
            cell(&interface["addresses"]),
            cell(&interface["gateways"]),
            wire(interface),
            port(&interface["host"]),
            cell(&interface["clients"]),
            cell(&interface["flows"]),
        ]);
    }
    table.render()
}

/// Everything about one interface, one value a line.
pub(crate) fn nic(interface: &Value) -> String {
    fn add(table: &mut Table, name: &str, value: &Value) {
        match value {
            Value::Object(inner) => {
                inner.iter().for_each(|(key, value)| add(table, &format!("{name} {key}"), value));
            }
            value => table.row(vec![name.trim_start().to_owned(), cell(value)]),
        }
    }
    let mut table = Table::new(&["NIC", ""]);
    add(&mut table, "", interface);
    table.render()
}

pub(crate) fn status(answer: &Value) -> String {
    let mut text = format!(
        "usnetd {} (protocol {}), process {}, up {} s, {}\n{} of {} slots of {} bytes free, {} clients\n\n",
        cell(&answer["version"]),
        cell(&answer["protocol"]),
        cell(&answer["pid"]),
        cell(&answer["uptime_s"]),
        cell(&answer["socket"]),
        cell(&answer["slots"]["free"]),
        cell(&answer["slots"]["total"]),
        cell(&answer["slot_size"]),
        cell(&answer["sessions"]),
    );
    text.push_str(&nics(&answer["interfaces"]));
    for interface in list(&answer["interfaces"]) {
        if let Some(what) = interface["waits_for"].as_str() {
            text.push_str(&format!(
                "\n{} is not open again yet: {what}\n",
                cell(&interface["ifname"])
            ));
        }
    }
    for interface in list(&answer["interfaces"]) {
        let chosen = &interface["chosen"];
        if let Some(port) = chosen["port"].as_str() {
            text.push_str(&format!("\n{} is served by {port}\n", cell(&interface["ifname"])));
            for passed in list(&chosen["passed_over"]) {
                text.push_str(&format!(
                    "  not by {}: {}\n",
                    cell(&passed["port"]),
                    cell(&passed["why"])
                ));
            }
        }
    }
    for interface in list(&answer["interfaces"]) {
        text.push_str(&rss(&cell(&interface["ifname"]), &interface["rss"]));
    }
    text.push_str(&exchanges(answer));
    text
}

/// How flows come to the queues of an interface; nothing where that is not looked at.
fn rss(name: &str, rss: &Value) -> String {
    let Some(table) = rss["table"].as_str() else { return String::new() };
    let what = match table {
        "set" => "set for the workers",
        "even" => "even for the workers as it was",
        "left" => "left as it was",
        _ => "none",
    };
    let shares: Vec<_> = list(&rss["shares"]).iter().map(cell).collect();
    let label = if shares.is_empty() { "" } else { ", by queue: " };
    let why = rss["why"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("\nRSS table of {name}: {what}{why}{label}{}\n", shares.join(" "))
}

/// How the frames of ports that have several ways get into slots and back.
fn exchanges(answer: &Value) -> String {
    let ports = list(&answer["interfaces"]).iter().flat_map(|i| [&i["wire"], &i["host"]]);
    let mut rows = ports.filter(|port| port["exchange"].is_object()).peekable();
    if rows.peek().is_none() {
        return String::new();
    }
    let mut table = Table::new(&["PORT", "BACKEND", "REGION", "FRAMES", "WHY"]);
    let mut sent = Table::new(&["PORT", "CLIENTS' FRAMES", "WHY"]);
    for port in rows {
        let exchange = &port["exchange"];
        let cells = |keys: &[&str]| {
            let cells = keys.iter().map(|key| cell(&exchange[*key]).replace('_', " "));
            cells.collect::<Vec<_>>()
        };
        let mut row = vec![cell(&port["name"]), cell(&port["backend"])];
        row.extend(cells(&["region", "frames", "why"]));
        table.row(row);
        let mut row = vec![cell(&port["name"])];
        row.extend(cells(&["sends", "why_sends"]));
        sent.row(row);
    }
    format!("\n{}\n{}", table.render(), sent.render())
}

pub(crate) fn clients(answer: &Value) -> String {
    let head = [
        "ID",
        "NAME",
        "PID",
        "UID",
        "IFNAME",
        "MODE",
        "ADDRESSES",
        "CLAIMS",
        "DELIVERED",
        "SENT",
        "DROPS",
    ];
    let mut table = Table::new(&head);
    for client in list(answer) {
        let counters = &client["counters"];
        let mode = match &client["group"] {
            Value::String(group) => format!("{}:{group}", cell(&client["mode"])),
            _ if client["state"] == "ending" => "ending".into(),
            _ => cell(&client["mode"]),
        };
        let drops = sum(&counters["dropped_to"]) + sum(&counters["dropped_from"]);
        table.row(vec![
            cell(&client["id"]),
            cell(&client["name"]),
            cell(&client["pid"]),
            cell(&client["uid"]),
            cell(&client["ifname"]),
            mode,
            cell(&client["addresses"]),
            claims(client),
            cell(&counters["delivered"]),
            cell(&counters["sent"]),
            drops.to_string(),
        ]);
    }
    table.render()
}

pub(crate) fn client(client: &Value) -> String {
    let mut table = Table::new(&["client", &cell(&client["id"])]);
    for (key, value) in entries(client) {
        match key.as_str() {
            "id" => {}
            "claims" => table.row(vec![key.clone(), claims(client)]),
            "counters" => {
                for (name, count) in entries(value) {
                    match count {
                        Value::Object(reasons) => {
                            for (reason, count) in reasons {
                                table.row(vec![format!("{name} {reason}"), cell(count)]);
                            }
                        }
                        count => table.row(vec![name.clone(), cell(count)]),
                    }
                }
            }
            _ => table.row(vec![key.clone(), cell(value)]),
        }
    }
    table.render()
}

pub(crate) fn rules(answer: &Value) -> String {
    let mut table =
        Table::new(&["IFNAME", "PROTOCOL", "ADDRESS", "PORTS", "FROM", "HOLDER", "NAME"]);
    for rule in list(answer) {
        let holder = match &rule["client"] {
            Value::Null if rule["holder"] == "reserved" => {
                format!("reserved for {}", cell(&rule["name"]))
            }
            Value::Null => cell(&rule["holder"]),
            id => format!("client {id}"),
        };
        table.row(vec![
            cell(&rule["ifname"]),
            cell(&rule["protocol"]),
            cell(&rule["address"]),
            ports(rule),
            from(rule),
            holder,
            cell(&rule["name"]),
        ]);
    }
    table.render()
}

/// The remote end of a rule, its priority, and whether it is shared.
fn from(rule: &Value) -> String {
    let mut text = match (&rule["remote"], &rule["remote_port"]) {
        (Value::Null, Value::Null) => "any".to_owned(),
        (remote, Value::Null) => cell(remote),
        (Value::Null, port) => format!("any port {port}"),
        (remote, port) => format!("{} port {port}", cell(remote)),
    };
    if let Value::Number(priority) = &rule["priority"] {
        text.push_str(&format!(", priority {priority}"));
    }
    if rule["spread"] == true {
        text.push_str(", spread");
    }
    text
}

/// `client 3 (web, process 812)`, or `the host`.
fn owner(owner: &Value) -> String {
    match (&owner["kind"], &owner["client"]) {
        (_, id @ Value::Number(_)) => {
            format!("client {id} ({}, process {})", cell(&owner["name"]), cell(&owner["pid"]))
        }
        (Value::String(kind), _) => format!("the {kind}"),
        _ => "-".into(),
    }
}

/// Settings that two configurations have otherwise.
pub(crate) fn differences(answer: &Value) -> String {
    if list(answer).is_empty() {
        return "nothing is otherwise\n".into();
    }
    let mut table = Table::new(&["SETTING", "FROM", "TO", ""]);
    for one in list(answer) {
        let note = if one["live"] == true { "" } else { "needs a restart" };
        table.row(vec![cell(&one["key"]), cell(&one["from"]), cell(&one["to"]), note.into()]);
    }
    table.render()
}

pub(crate) fn flows(answer: &Value) -> String {
    let head = ["IFNAME", "PROTOCOL", "REMOTE", "LOCAL", "OWNER", "STATE", "IDLE-S"];
    let mut table = Table::new(&head);
    for flow in list(answer) {
        table.row(vec![
            cell(&flow["ifname"]),
            cell(&flow["protocol"]),
            cell(&flow["source"]),
            cell(&flow["destination"]),
            owner(&flow["owner"]),
            cell(&flow["state"]),
            cell(&flow["idle_s"]),
        ]);
    }
    table.render()
}

pub(crate) fn explained(answer: &Value) -> String {
    let mut table = Table::new(&["STEP", "FOUND"]);
    for step in list(&answer["steps"]) {
        let mut says = cell(&step["says"]);
        if step["owner"].is_object() {
            says = format!("{says} {}", owner(&step["owner"]));
        }
        table.row(vec![cell(&step["step"]), says]);
    }
    let owners: Vec<_> = list(&answer["owners"]).iter().map(owner).collect();
    let verdict = match answer["verdict"].as_str() {
        Some("drop") => format!("nobody: dropped as {}", cell(&answer["reason"])),
        Some("answered") => "the switch answers".into(),
        Some("heard") => "the kernel, which hears it by itself".into(),
        Some("group") if owners.is_empty() => "nobody cares about this group".into(),
        Some(_) => owners.join(", "),
        None => "-".into(),
    };
    let asked = ["ifname", "protocol", "source", "destination"].map(|key| cell(&answer[key]));
    format!("{}\n\n{}\n-> {verdict}\n", asked.join(" "), table.render())
}

pub(crate) fn stats(answer: &Value) -> String {
    let mut frames = Table::new(&["FRAMES", ""]);
    let totals = &answer["totals"];
    let names = ["received", "from_clients", "generated", "to_clients", "to_ports", "consumed"];
    for name in names {
        frames.row(vec![name.into(), cell(&totals[name])]);
    }
    frames.row(vec!["dropped".into(), sum(&totals["dropped"]).to_string()]);
    for (reason, count) in entries(&totals["dropped"]) {
        frames.row(vec![format!("  {reason}"), cell(count)]);
    }
    frames.row(vec!["waiting".into(), cell(&answer["waiting"])]);
    let mut slots = Table::new(&["SLOTS", ""]);
    for name in ["free", "daemon", "taken", "lent", "shared", "total"] {
        slots.row(vec![name.into(), cell(&answer["slots"][name])]);
    }
    let head = [
        "PORT",
        "BACKEND",
        "RECEIVED",
        "BYTES",
        "TRANSMITTED",
        "BYTES",
        "MISSED",
        "RX-ERRORS",
        "TX-ERRORS",
        "NO-SLOT",
    ];
    let mut ports = Table::new(&head);
    for interface in list(&answer["interfaces"]) {
        for port in [&interface["wire"], &interface["host"]].into_iter().filter(|p| !p.is_null()) {
            let counters = &port["counters"];
            let keys = [
                "received",
                "received_bytes",
                "transmitted",
                "transmitted_bytes",
                "missed",
                "receive_errors",
                "transmit_errors",
                "no_slot",
            ];
            let mut row = vec![cell(&port["name"]), cell(&port["backend"])];
            row.extend(keys.iter().map(|key| cell(&counters[*key])));
            ports.row(row);
        }
    }
    let conserved = format!(
        "frames conserved: {}, slots conserved: {}\n",
        cell(&answer["frames_conserved"]),
        cell(&answer["slots_conserved"])
    );
    [frames.render(), slots.render(), ports.render(), conserved].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_answer_lacks_is_shown_as_missing() {
        for show in
            [status, clients, client, rules, stats, explained, flows, nics, nic, differences]
        {
            for answer in [json!(null), json!([null]), json!({}), json!([{}])] {
                show(&answer);
            }
        }
        assert!(clients(&json!([{ "id": 3 }])).lines().nth(1).unwrap().contains('-'));
    }

    #[test]
    fn how_frames_get_into_slots_is_said_of_ports_that_have_several_ways() {
        let exchange = json!({
            "region": "netmap", "frames": "cut_through", "why": "so",
            "sends": "copied", "why_sends": "no_driver",
        });
        let wire = json!({ "name": "eth1", "backend": "netmap", "exchange": exchange });
        let text = status(&json!({ "interfaces": [{ "wire": wire, "host": null }] }));
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<_> =
            text.lines().filter(|line| line.starts_with("eth1")).map(words).collect();
        assert!(lines.contains(&words("eth1 netmap netmap cut through so")), "{text}");
        assert!(lines.contains(&words("eth1 copied no driver")), "{text}");
        assert!(!status(&json!({ "interfaces": [{ "wire": {} }] })).contains("REGION"));
    }

    #[test]
    fn drops_are_summed_over_reasons_and_directions() {
        let counters = json!({ "dropped_to": { "ring_full": 2 }, "dropped_from": { "vlan": 3 } });
        let text = clients(&json!([{ "id": 1, "counters": counters }]));
        assert!(text.lines().nth(1).unwrap().ends_with('5'), "{text}");
    }
}
