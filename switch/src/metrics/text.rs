//! Counters as text: OpenMetrics 1.0, or what Prometheus read before that.
//!
//! Families have their unit in their name and counters end with `_total`; labels name interfaces, ports of
//! interfaces, clients and reasons, never addresses.

use core::fmt::Write;
use serde_json::Value;

/// How counters are written. The samples are the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Format {
    const OPEN: &str = "application/openmetrics-text";

    /// What a scraper that sends these lines reads: OpenMetrics if it says so.
    #[must_use]
    pub fn accepted(request: &[u8]) -> Self {
        let request = String::from_utf8_lossy(request).to_ascii_lowercase();
        let mut headers = request.lines().filter_map(|line| line.strip_prefix("accept:"));
        if headers.any(|kinds| kinds.contains(Self::OPEN)) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Its content type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Families and their samples.
#[derive(Debug)]
struct Exposition {
    text: String,
    format: Format,
}

/// Labels of one sample, in order.
type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// Begins a family; `unit` ends its name, if it has one.
    fn family(&mut self, name: &str, kind: &str, unit: Option<&str>, help: &str) {
        if self.format == Format::Prometheus {
            // There a family is called as its samples, and an info is a gauge.
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            let _ = writeln!(self.text, "# HELP {name}{suffix} {help}");
            let _ = writeln!(self.text, "# TYPE {name}{suffix} {kind}");
            return;
        }
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
        if let Some(unit) = unit {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.text, "# HELP {name} {help}");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: &Value) {
        let Some(value) = number(value) else { return };
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_bool().map(u64::from))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// Counters of ports: family, unit, key in status output, help.
const PORTS: [(&str, Option<&str>, &str, &str); 9] = [
    ("usnetd_nic_receive_packets", None, "received", "Frames that a port received."),
    ("usnetd_nic_receive_bytes", Some("bytes"), "received_bytes", "Bytes that a port received."),
    ("usnetd_nic_transmit_packets", None, "transmitted", "Frames that a port sent."),
    ("usnetd_nic_transmit_bytes", Some("bytes"), "transmitted_bytes", "Bytes that a port sent."),
    ("usnetd_nic_receive_missed", None, "missed", "Frames lost before the port saw them."),
    ("usnetd_nic_receive_errors", None, "receive_errors", "Frames received that were of no use."),
    ("usnetd_nic_transmit_errors", None, "transmit_errors", "Frames that the medium refused."),
    ("usnetd_nic_receive_no_slot", None, "no_slot", "Frames received for which no slot was free."),
    ("usnetd_nic_transmit_split", None, "split", "Frames sent partly from clients' slots."),
];

/// Counters of clients.
const CLIENTS: [(&str, Option<&str>, &str, &str); 5] = [
    ("usnetd_client_receive_packets", None, "delivered", "Frames put on a client's ring."),
    ("usnetd_client_receive_bytes", Some("bytes"), "delivered_bytes", "Bytes of these frames."),
    ("usnetd_client_transmit_packets", None, "sent", "Frames taken from a client's ring."),
    ("usnetd_client_transmit_bytes", Some("bytes"), "sent_bytes", "Bytes of these frames."),
    ("usnetd_client_wakeups", None, "wakeups", "Wake-ups sent to a client."),
];

/// What the answers to `Status`, `Clients` and `Stats` count, as text.
#[must_use]
pub fn exposition(format: Format, status: &Value, clients: &Value, stats: &Value) -> String {
    let mut all = Exposition { text: String::new(), format };
    all.family("usnetd_build", "info", None, "The version of usnetd, and of its protocol.");
    let protocol = status["protocol"].to_string();
    let labels = [("version", text(&status["version"])), ("protocol", protocol.as_str())];
    all.sample("usnetd_build_info", &labels, &1.into());
    all.family("usnetd_uptime_seconds", "gauge", Some("seconds"), "Since when usnetd runs.");
    all.sample("usnetd_uptime_seconds", &[], &status["uptime_s"]);
    all.family("usnetd_clients", "gauge", None, "Attached clients.");
    all.sample("usnetd_clients", &[], &status["sessions"]);
    all.family("usnetd_slots", "gauge", None, "Slots by owner.");
    for (owner, count) in entries(&stats["slots"]).filter(|(owner, _)| *owner != "total") {
        all.sample("usnetd_slots", &[("owner", owner)], count);
    }
    frames(&mut all, stats);
    nics(&mut all, status, stats);
    of_clients(&mut all, clients);
    if format == Format::OpenMetrics {
        all.text.push_str("# EOF\n");
    }
    all.text
}

fn frames(all: &mut Exposition, stats: &Value) {
    all.family(
        "usnetd_frames",
        "counter",
        None,
        "Frames by what became of them, or how they came.",
    );
    for (way, count) in entries(&stats["totals"]) {
        all.sample("usnetd_frames_total", &[("way", way)], count);
    }
    all.family("usnetd_drops", "counter", None, "Frames dropped, by reason.");
    for (reason, count) in entries(&stats["totals"]["dropped"]) {
        all.sample("usnetd_drops_total", &[("reason", reason)], count);
    }
    all.family("usnetd_frames_waiting", "gauge", None, "Frames that wait for a port.");
    all.sample("usnetd_frames_waiting", &[], &stats["waiting"]);
    all.family("usnetd_conserved", "gauge", None, "Whether what came in is what is accounted for.");
    for what in ["frames", "slots"] {
        let key = format!("{what}_conserved");
        all.sample("usnetd_conserved", &[("what", what)], &stats[key]);
    }
    all.family(
        "usnetd_worker_frames",
        "counter",
        None,
        "The same of each worker, if there are several.",
    );
    for (number, totals) in list(&stats["workers"]).iter().enumerate() {
        let number = number.to_string();
        for (way, count) in entries(totals) {
            all.sample("usnetd_worker_frames_total", &[("worker", &number), ("way", way)], count);
        }
    }
}

fn nics(all: &mut Exposition, status: &Value, stats: &Value) {
    let nics = list(&status["interfaces"]);
    all.family("usnetd_nic_up", "gauge", None, "Whether the interface's ports are there.");
    for nic in nics {
        let up = Value::from(nic["state"] == "up");
        all.sample("usnetd_nic_up", &[("nic", text(&nic["ifname"]))], &up);
    }
    all.family("usnetd_nic_reopened", "counter", None, "How often an interface came back.");
    for nic in nics {
        let labels = [("nic", text(&nic["ifname"]))];
        all.sample("usnetd_nic_reopened_total", &labels, &nic["reopened"]);
    }
    all.family("usnetd_flows", "gauge", None, "Flows that are known.");
    for nic in nics {
        all.sample("usnetd_flows", &[("nic", text(&nic["ifname"]))], &nic["flows"]);
    }
    for (name, unit, key, help) in PORTS {
        all.family(name, "counter", unit, help);
        let sample = format!("{name}_total");
        for nic in nics {
            // One that has come or gone between the two answers is in one of them alone.
            let mut all_seen = list(&stats["interfaces"]).iter();
            let Some(seen) = all_seen.find(|seen| seen["id"] == nic["id"]) else { continue };
            for port in ["wire", "host"] {
                let labels = [("nic", text(&nic["ifname"])), ("port", port)];
                all.sample(&sample, &labels, &seen[port]["counters"][key]);
            }
        }
    }
}

fn of_clients(all: &mut Exposition, clients: &Value) {
    let each = || {
        let named = |client: &Value| (client["id"].to_string(), text(&client["name"]).to_owned());
        list(clients).iter().map(move |client| (named(client), client))
    };
    for (name, unit, key, help) in CLIENTS {
        all.family(name, "counter", unit, help);
        let sample = format!("{name}_total");
        for ((id, called), client) in each() {
            let labels = [("client", id.as_str()), ("name", called.as_str())];
            all.sample(&sample, &labels, &client["counters"][key]);
        }
    }
    let help = "Frames from or to a client that were dropped, by reason.";
    all.family("usnetd_client_drops", "counter", None, help);
    for ((id, called), client) in each() {
        for (direction, key) in [("to", "dropped_to"), ("from", "dropped_from")] {
            for (reason, count) in entries(&client["counters"][key]) {
                let labels = [
                    ("client", id.as_str()),
                    ("name", called.as_str()),
                    ("direction", direction),
                    ("reason", reason),
                ];
                all.sample("usnetd_client_drops_total", &labels, count);
            }
        }
    }
    all.family("usnetd_client_ring_filled", "gauge", None, "Frames that a client has yet to take.");
    for ((id, called), client) in each() {
        let labels = [("client", id.as_str()), ("name", called.as_str())];
        all.sample("usnetd_client_ring_filled", &labels, &client["rx_in_flight"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_clients_cannot_break_the_text() {
        let clients = json!([{ "id": 1, "name": "a\"b\\c\nd", "counters": { "sent": 3 } }]);
        let text = exposition(Format::OpenMetrics, &json!({}), &clients, &json!({}));
        let line =
            "usnetd_client_transmit_packets_total{client=\"1\",name=\"a\\\"b\\\\c\\nd\"} 3\n";
        assert!(text.contains(line), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_scraper_gets_the_format_that_it_asks_for() {
        let prometheus = "GET /metrics HTTP/1.1\r\nACCEPT: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1\r\n\r\n";
        assert_eq!(Format::accepted(prometheus.as_bytes()), Format::OpenMetrics);
        for plain in
            ["GET /metrics HTTP/1.1\r\nAccept: */*\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "\u{fffd}"]
        {
            assert_eq!(Format::accepted(plain.as_bytes()), Format::Prometheus);
        }
    }
}
