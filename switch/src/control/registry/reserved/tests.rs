//! Ports that are kept for clients, against a model that knows each port by itself.

use super::super::{Entry, Holder, Refusal, Registry, Rule, Whose, Wish};
use super::Reserved;
use crate::classify::Protocol;
use crate::config::{Peer, Protocols, Quota, Services};
use crate::steer::Scope;
use proptest::prelude::*;
use std::net::IpAddr;
use usnet_shmring::control::RefusalCode;
use usnet_shmring::ledger::SessionId;

const WEB: SessionId = SessionId(0);
const THIEF: SessionId = SessionId(1);
const OTHER: SessionId = SessionId(2);

fn here() -> Vec<IpAddr> {
    vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]
}

fn reserved() -> Reserved {
    Reserved {
        name: "web".into(),
        uid: 7,
        gid: Some(70),
        interface: 0,
        addresses: here(),
        ports: Services::parse(&["tcp/10-19".into(), "tcp/443".into()]).unwrap(),
    }
}

/// The client, one that has its name alone, and one that is its user alone.
fn registry() -> Registry {
    let mut registry = Registry::new(32_768..=60_999);
    registry.set_reserved(vec![reserved()]);
    for (id, name, uid, gid) in [(WEB, "web", 7, 70), (THIEF, "web", 8, 70), (OTHER, "web", 7, 71)]
    {
        let entry = Entry {
            interface: 0,
            account: (uid, 0),
            shared: here(),
            own_pool: Vec::new(),
            own_prefixes: Vec::new(),
            services: Services::parse(&["tcp/1-30".into()]).unwrap(),
            protocols: Protocols::default(),
            quota: Quota { sessions: 4, ports: 100, ring_capacity: 64, slots: 4096, flows: 1 },
            slots: 1,
        };
        registry.enter(id, entry).unwrap();
        registry.introduce(id, name, &Peer { pid: 1, uid, gid, groups: vec![] });
    }
    registry
}

fn tcp(first: u16, count: u16) -> Wish {
    Wish { address: None, protocol: Protocol::TCP, first, count, scope: Scope::default() }
}

fn rules(registry: &Registry) -> Vec<Rule> {
    registry.rules().collect()
}

#[test]
fn what_is_kept_for_a_client_is_its_alone_and_kept_again_when_it_ends() {
    let mut r = registry();
    let before = rules(&r);
    assert_eq!(before.len(), 4, "two ranges at two addresses");
    for id in [THIEF, OTHER] {
        let refusal = r.claim(id, tcp(9, 2)).unwrap_err();
        assert_eq!(refusal.code(), RefusalCode::InUse);
        let text =
            "port 10 of tcp at 10.0.0.1 is kept for client web by [[client]] of the configuration";
        assert_eq!(refusal.to_string(), text);
        let Refusal::Held { port: 10, holder: Whose { holder: Holder::Reserved(0), .. }, .. } =
            refusal
        else {
            panic!("{refusal:?}")
        };
    }
    // Where any will do it is passed over, also by whom it is kept for.
    assert_eq!(r.claim(THIEF, tcp(0, 9)).unwrap().wish.first, 1);
    assert_eq!(r.claim(THIEF, tcp(0, 9)).unwrap().wish.first, 20);
    // Its policy does not have this port; half of that range is not kept for it.
    r.claim(WEB, tcp(443, 1)).unwrap();
    let half = r.claim(WEB, tcp(442, 2)).unwrap_err();
    assert_eq!(half.code(), RefusalCode::NotPermitted);
    let middle = r.claim(WEB, tcp(14, 2)).unwrap();
    let at = |port: u16| {
        let mut all = rules(&r).into_iter().filter(|rule| (rule.first..=rule.last).contains(&port));
        all.next().map(|rule| (rule.first, rule.last, rule.holder))
    };
    assert_eq!(at(13), Some((10, 13, Holder::Reserved(0))));
    assert_eq!(at(15), Some((14, 15, Holder::Session(WEB))));
    assert_eq!(at(16), Some((16, 19, Holder::Reserved(0))));
    r.release(WEB, middle.wish).unwrap();
    r.claim(WEB, tcp(9, 4)).expect_err("9 is the thief's");
    r.claim(WEB, tcp(10, 10)).unwrap();
    r.end(WEB);
    r.end(THIEF);
    assert_eq!(rules(&r), before);
    r.forget(WEB);
    r.set_reserved(Vec::new());
    assert_eq!(rules(&r), []);
}

#[test]
fn a_port_that_somebody_has_already_is_kept_from_when_it_is_given_back() {
    let mut r = registry();
    let all = rules(&r);
    r.set_reserved(Vec::new());
    let theirs = r.claim(THIEF, tcp(12, 1)).unwrap();
    r.set_reserved(vec![reserved()]);
    assert!(rules(&r).iter().any(|rule| rule.holder == Holder::Session(THIEF)));
    r.claim(WEB, tcp(12, 1)).unwrap_err();
    r.release(THIEF, theirs.wish).unwrap();
    assert_eq!(rules(&r), all);
    r.claim(THIEF, tcp(12, 1)).unwrap_err();
    r.claim(WEB, tcp(12, 1)).unwrap();
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Claim(u16, u16, u16),
    Release(u16, usize),
    End(u16),
    Keep(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u16..3, 5u16..25, 1u16..6).prop_map(|(id, first, count)| Step::Claim(id, first, count)),
        3 => (0u16..3, 0usize..4).prop_map(|(id, which)| Step::Release(id, which)),
        1 => (0u16..3).prop_map(Step::End),
        1 => any::<bool>().prop_map(Step::Keep),
    ]
}

proptest! {
    /// Whatever is claimed and given back: each port is one's, a claim is granted exactly if each of its ports is free or
    /// kept for who claims it, and what is kept is so as soon as nobody has it.
    #[test]
    fn each_port_is_as_the_model_says(steps in prop::collection::vec(step(), 1..60)) {
        let mut r = registry();
        let (mut kept, mut owner) = (true, vec![None; 32]);
        for step in steps {
            match step {
                Step::Claim(id, first, count) => {
                    let id = SessionId(id);
                    let range = first..first + count;
                    let is_kept = |port: u16| kept && (10..20).contains(&port);
                    let fits = range.clone().all(|port| {
                        owner[usize::from(port)].is_none() && (!is_kept(port) || id == WEB)
                    });
                    prop_assert_eq!(r.claim(id, tcp(first, count)).is_ok(), fits);
                    if fits {
                        range.for_each(|port| owner[usize::from(port)] = Some(id));
                    }
                }
                Step::Release(id, which) => {
                    let grant = r.grants(SessionId(id)).nth(which).cloned();
                    if let Some(grant) = grant {
                        r.release(SessionId(id), grant.wish).unwrap();
                        let range = grant.wish.first..grant.wish.first + grant.wish.count;
                        range.for_each(|port| owner[usize::from(port)] = None);
                    }
                }
                Step::End(id) => {
                    r.end(SessionId(id));
                    owner.iter_mut().filter(|o| **o == Some(SessionId(id))).for_each(|o| *o = None);
                }
                Step::Keep(keep) => {
                    r.set_reserved(if keep { vec![reserved()] } else { Vec::new() });
                    kept = keep;
                }
            }
            for address in here() {
                for port in 1..32u16 {
                    let all: Vec<Holder> = r.rules()
                        .filter(|rule| rule.address == address && (rule.first..=rule.last).contains(&port))
                        .map(|rule| rule.holder)
                        .collect();
                    let expected = match owner[usize::from(port)] {
                        Some(id) => vec![Holder::Session(id)],
                        None if kept && (10..20).contains(&port) => vec![Holder::Reserved(0)],
                        None => vec![],
                    };
                    prop_assert_eq!(all, expected, "port {}", port);
                }
            }
        }
    }
}
