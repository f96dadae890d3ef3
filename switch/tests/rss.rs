//! How flows come to the queues of an interface: what is said where its driver has no table to say it by.
//!
//! A driver that has one is a card's, so the rest is shown in a machine with a card: docs/ports.md says what was seen.

mod isolated;
mod served;

use isolated::{isolated, skip, two_hosts, two_hosts_with};
use served::Served;
use std::sync::Arc;
use usnet_switch::net::Indirection;
use usnet_switch::port::netmap::Module;

const NO_TABLE: &str = "the driver of the interface has no table";

#[test]
fn a_veth_has_no_table_and_refuses_one() {
    isolated("a_veth_has_no_table_and_refuses_one", || {
        let _peer = two_hosts_with(Some(2));
        assert_eq!(Indirection::of("sv0").unwrap(), None);
        let table = Indirection::new(vec![0, 1]).unwrap();
        let refused = [table.set("sv0"), Indirection::reset("sv0")];
        for error in refused.map(Result::unwrap_err) {
            assert_eq!(error.errno(), Some(libc::EOPNOTSUPP), "{error}");
        }
        // What was recorded of another driver's is no trouble either.
        assert!(!table.make_way("sv0").unwrap());
        assert!(!table.put_back("sv0").unwrap());
        let error = Indirection::of("sv9").unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENODEV), "{error}");
    });
}

#[test]
fn an_interface_without_a_table_is_served_and_the_status_says_why_it_has_none() {
    let name = "an_interface_without_a_table_is_served_and_the_status_says_why_it_has_none";
    if !rustix::process::geteuid().is_root() {
        return skip(name, "XDP programs can only be loaded as root");
    }
    isolated(name, || {
        let _peer = two_hosts();
        for rest in ["", "rss = \"leave\""] {
            let interface = format!("port = \"af_xdp\"\n{rest}");
            let served = Served::start("rss", &interface, Arc::new(Module));
            let rss = served.interface()["rss"].clone();
            assert_eq!((&rss["table"], &rss["why"]), (&"none".into(), &NO_TABLE.into()), "{rss}");
            assert_eq!(rss["shares"], serde_json::json!([]));
            let text = served.ctl(&["status"]);
            assert!(text.contains(&format!("RSS table of sv0: none ({NO_TABLE})\n")), "{text}");
        }
    });
}

#[test]
fn of_packet_sockets_nothing_is_said() {
    isolated("of_packet_sockets_nothing_is_said", || {
        let _peer = two_hosts();
        let served = Served::start("rss", "port = \"af_packet\"", Arc::new(Module));
        assert_eq!(served.interface()["rss"], serde_json::Value::Null);
        assert!(!served.ctl(&["status"]).contains("RSS"));
    });
}
