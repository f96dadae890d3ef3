//! Claims for some remote ends and of groups: who may have what beside whom.

use super::*;
use crate::steer::{self, Prefix};
use proptest::prelude::*;
use usnet_shmring::control::RefusalCode;

const A: SessionId = SessionId(0);
const B: SessionId = SessionId(1);
const C: SessionId = SessionId(2);
const SHARED: &str = "10.0.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    let (address, bits) = text.split_once('/').unwrap();
    Prefix::new(ip(address), bits.parse().unwrap()).unwrap()
}

fn entry(uid: u32) -> Entry {
    Entry {
        interface: 0,
        account: (uid, 0),
        shared: vec![ip(SHARED)],
        own_pool: Vec::new(),
        own_prefixes: Vec::new(),
        services: Services::unprivileged(),
        protocols: Protocols::parse(&["gre".to_owned()]).unwrap(),
        quota: Quota { sessions: 4, ports: 100, ring_capacity: 1024, slots: 8192, flows: 16 },
        slots: 1024,
    }
}

/// Sessions of these users.
fn registry(users: &[u32]) -> Registry {
    let mut registry = Registry::new(32_768..=60_999);
    for (id, uid) in (0..).zip(users) {
        registry.enter(SessionId(id), entry(*uid)).unwrap();
    }
    registry
}

fn tcp(first: u16, count: u16, scope: Scope) -> Wish {
    Wish { address: None, protocol: Protocol::TCP, first, count, scope }
}

fn from(text: &str) -> Scope {
    Scope { remote: prefix(text), ..Scope::default() }
}

const SPREAD: Scope = Scope { remote: Prefix::ANY, remote_port: 0, priority: 0, spread: true };

#[test]
fn different_remote_ends_of_one_port_are_different_users_and_the_same_is_refused_by_name() {
    let mut r = registry(&[1, 2]);
    r.claim(A, tcp(8000, 2, from("192.0.2.0/25"))).unwrap();
    r.claim(B, tcp(8000, 2, from("192.0.2.128/25"))).unwrap();
    r.claim(B, tcp(8000, 1, Scope { remote_port: 7, ..from("198.51.100.0/24") })).unwrap();
    r.claim(A, tcp(8000, 1, Scope { remote_port: 8, ..from("198.51.100.0/24") })).unwrap();
    for text in ["192.0.2.0/25", "192.0.2.7/32", "192.0.0.0/16"] {
        let refusal = r.claim(B, tcp(7999, 2, from(text))).unwrap_err();
        let says = "port 8000 of tcp at 10.0.0.1 from 192.0.2.0/25 is held by session 0, whose user or policy is another";
        assert_eq!((refusal.to_string().as_str(), refusal.code()), (says, RefusalCode::InUse));
    }
    let refusal = r.claim(B, tcp(8001, 1, Scope::default())).unwrap_err();
    assert!(matches!(refusal, Refusal::HeldFor { port: 8001, .. }), "{refusal}");
    let strong = Scope { priority: 255, ..from("192.0.2.0/24") };
    assert!(r.claim(B, tcp(8000, 1, strong)).is_err(), "priority takes nothing from others");
    assert_eq!(r.rules().count(), 4, "nothing of what was refused stays");
}

#[test]
fn one_user_may_nest_what_it_holds_but_not_hold_the_same_twice() {
    let mut r = registry(&[1, 1]);
    r.claim(A, tcp(8000, 10, Scope::default())).unwrap();
    r.claim(B, tcp(8003, 1, from("192.0.2.0/24"))).unwrap();
    r.claim(B, tcp(8003, 1, from("192.0.2.7/32"))).unwrap();
    r.claim(A, tcp(8003, 1, Scope { priority: 1, ..from("192.0.2.0/24") })).unwrap();
    let refusal = r.claim(A, tcp(8000, 5, from("192.0.2.7/32"))).unwrap_err();
    assert!(matches!(
        refusal,
        Refusal::HeldFor { port: 8003, holder: Whose { holder: Holder::Session(B), .. }, .. }
    ));
    assert!(r.claim(B, tcp(8009, 1, Scope::default())).is_err(), "plainly it is held once");
    // In the other order, too.
    let mut r = registry(&[1, 1]);
    r.claim(B, tcp(8003, 1, from("192.0.2.0/24"))).unwrap();
    r.claim(A, tcp(8000, 10, Scope::default())).unwrap();
}

#[test]
fn a_group_is_of_one_user_with_the_same_words_and_the_flag() {
    let mut r = registry(&[1, 1, 2]);
    r.claim(A, tcp(8000, 2, SPREAD)).unwrap();
    r.claim(B, tcp(8000, 2, SPREAD)).unwrap();
    let why = |r: &mut Registry, id, wish| r.claim(id, wish).unwrap_err().to_string();
    let other = why(&mut r, C, tcp(8000, 2, SPREAD));
    assert!(other.ends_with("is held by session 0, whose user or policy is another"), "{other}");
    assert!(other.contains("port 8000 of tcp at 10.0.0.1, spread"), "{other}");
    let alone = why(&mut r, B, tcp(8000, 2, Scope::default()));
    assert!(alone.ends_with("session 0, which does not share it"), "{alone}");
    assert!(why(&mut r, B, tcp(8000, 1, SPREAD)).ends_with("shares another range of ports"));
    assert!(why(&mut r, A, tcp(8000, 2, SPREAD)).ends_with("is held by session 0"), "once each");
    r.end(A);
    assert!(r.claim(C, tcp(8000, 2, SPREAD)).is_err(), "a member is left");
    r.release(B, tcp(8000, 2, SPREAD)).unwrap();
    r.claim(C, tcp(8000, 2, SPREAD)).unwrap();
    let mut r = registry(&[1, 1]);
    r.claim(A, tcp(8000, 2, Scope::default())).unwrap();
    assert!(why(&mut r, B, tcp(8000, 2, SPREAD)).ends_with("which does not share it"));
}

#[test]
fn what_the_host_keeps_for_a_remote_end_leaves_the_others() {
    let mut r = registry(&[1]);
    let scope = Scope { remote: prefix("192.0.2.0/24"), priority: u8::MAX, ..Scope::default() };
    let (address, protocol) = (ip(SHARED).into(), Protocol::TCP);
    r.reserve_from(0, &steer::Rule { address, protocol, first: 2222, count: 1, scope, seed: 0 });
    r.claim(A, tcp(2222, 1, Scope::default())).unwrap();
    r.claim(A, tcp(2222, 1, from("192.0.0.0/16"))).unwrap();
    let refusal = r.claim(A, tcp(2222, 1, from("192.0.2.7/32"))).unwrap_err();
    let says =
        "port 2222 of tcp at 10.0.0.1 from 192.0.2.0/24 with priority 255 is held by the host";
    assert_eq!(refusal.to_string(), says);
    r.end(A);
    assert_eq!(r.rules().map(|rule| rule.holder).collect::<Vec<_>>(), [Holder::Host]);
}

#[test]
fn a_protocol_without_ports_needs_the_policy_and_has_one_holder() {
    let mut r = registry(&[1, 2]);
    let of = |protocol, scope| Wish { protocol: Protocol(protocol), ..tcp(0, 0, scope) };
    let refusal = r.claim(A, of(50, Scope::default())).unwrap_err();
    let says = "policy does not allow protocol esp at every address; it allows: gre";
    assert_eq!((refusal.to_string().as_str(), refusal.code()), (says, RefusalCode::NotPermitted));
    r.claim(A, of(47, Scope::default())).unwrap();
    let refusal = r.claim(B, of(47, Scope::default())).unwrap_err();
    assert_eq!(refusal.code(), RefusalCode::InUse, "{refusal}");
    assert!(refusal.to_string().contains("session 0"), "{refusal}");
    for protocol in [1, 2, 58, 44] {
        assert!(matches!(r.claim(A, of(protocol, SPREAD)), Err(Refusal::NoPorts { .. })));
    }
    assert!(matches!(
        r.claim(A, Wish { first: 1, count: 1, ..of(47, SPREAD) }),
        Err(Refusal::NoPorts { .. })
    ));
    assert!(matches!(r.claim(A, tcp(0, 0, Scope::default())), Err(Refusal::Range { .. })));
    r.release(A, of(47, Scope::default())).unwrap();
    r.claim(B, of(47, from("192.0.2.0/24"))).unwrap();
    // Who has an address alone may have any protocol there.
    let own = Entry { shared: Vec::new(), own_pool: vec![ip("10.0.0.9")], ..entry(3) };
    r.enter(C, own).unwrap();
    r.claim(C, of(50, Scope::default())).unwrap();
}

#[test]
fn a_free_block_has_nobody_for_any_remote_end_and_quotas_count_it_all() {
    let mut r = registry(&[1, 2]);
    let first = r.claim(A, tcp(0, 20, Scope::default())).unwrap().wish.first;
    let next = r.claim(B, tcp(0, 20, from("192.0.2.0/24"))).unwrap().wish.first;
    assert!(next >= first + 20 || next + 20 <= first);
    let third = r.claim(A, tcp(0, 20, Scope::default())).unwrap().wish.first;
    assert!(third >= next + 20 || third + 20 <= next, "{next} {third}");
    let refusal = r.claim(A, tcp(0, 61, from("192.0.2.0/24"))).unwrap_err();
    assert_eq!(refusal, Refusal::Quota { what: Resource::Ports, limit: 100 });
}

const REMOTES: [&str; 5] = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "10.1.2.3/32"];

fn scope() -> impl Strategy<Value = Scope> {
    let remote = prop_oneof![Just(None), (0..REMOTES.len()).prop_map(Some)];
    (remote, 0..2_u16, 0..2_u8, any::<bool>()).prop_map(
        |(remote, remote_port, priority, spread)| {
            let remote = remote.map_or(Prefix::ANY, |which| prefix(REMOTES[which]));
            Scope { remote, remote_port, priority, spread }
        },
    )
}

proptest! {
    /// Whatever is claimed and given back: what two hold of one port is one user's, or cannot be asked for by one
    /// frame; and nothing is left when all is given back.
    #[test]
    fn no_user_ever_has_what_another_has(
        ops in prop::collection::vec((0..3_u16, 8000..8004_u16, 1..4_u16, scope(), any::<bool>()), 1..60)
    ) {
        let users = [1, 1, 2];
        let mut r = registry(&users);
        let mut granted: Vec<(SessionId, Wish)> = Vec::new();
        for (id, first, count, scope, gives_back) in ops {
            let (id, wish) = (SessionId(id), tcp(first, count, scope));
            if gives_back && let Some((holder, wish)) = granted.pop() {
                r.release(holder, wish).unwrap();
            }
            if r.claim(id, wish).is_ok() {
                granted.push((id, wish));
            }
            let rules: Vec<Rule> = r.rules().collect();
            prop_assert_eq!(rules.len(), granted.len());
            for (at, a) in rules.iter().enumerate() {
                for b in &rules[at + 1..] {
                    let (Holder::Session(x), Holder::Session(y)) = (a.holder, b.holder) else {
                        panic!("nothing was reserved")
                    };
                    if a.first <= b.last && b.first <= a.last && a.scope.overlaps(&b.scope) {
                        prop_assert_eq!(users[usize::from(x.0)], users[usize::from(y.0)]);
                        let is_group = a.scope == b.scope && a.scope.spread && x != y;
                        prop_assert!(is_group || !a.scope.is_same_place(&b.scope), "{:?} {:?}", a, b);
                    }
                }
            }
        }
        (0..3).for_each(|id| drop(r.end(SessionId(id))));
        prop_assert_eq!(r.rules().count(), 0);
    }
}
