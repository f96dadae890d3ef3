//! Claims against a model that knows every single port.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use usnet_shmring::control::RefusalCode;

const SHARED: [&str; 2] = ["10.0.0.1", "fd00::1"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn quota() -> Quota {
    Quota { sessions: 4, ports: 100, ring_capacity: 1024, slots: 4096, flows: 16 }
}

fn entry(uid: u32) -> Entry {
    Entry {
        interface: 0,
        account: (uid, 0),
        shared: SHARED.map(ip).to_vec(),
        own_pool: Vec::new(),
        own_prefixes: Vec::new(),
        services: Services::unprivileged(),
        protocols: Protocols::default(),
        quota: quota(),
        slots: 1024,
    }
}

fn registry(sessions: u16) -> Registry {
    let mut registry = Registry::new(32_768..=60_999);
    for id in 0..sessions {
        registry.enter(SessionId(id), entry(u32::from(id))).unwrap();
    }
    registry
}

fn tcp(first: u16, count: u16) -> Wish {
    Wish { address: None, protocol: Protocol::TCP, first, count, scope: Scope::default() }
}

const A: SessionId = SessionId(0);
const B: SessionId = SessionId(1);

#[test]
fn a_conflict_names_the_holder_and_the_first_port_in_question() {
    let mut r = registry(2);
    r.claim(A, Wish { address: Some(ip("fd00::1")), ..tcp(8000, 10) }).unwrap();
    let refusal = r.claim(B, tcp(7999, 4)).unwrap_err();
    let holder = Whose { holder: Holder::Session(A), name: None };
    let (address, protocol) = (ip("fd00::1"), Protocol::TCP);
    assert_eq!(refusal, Refusal::Held { address, protocol, port: 8000, holder });
    assert_eq!(refusal.to_string(), "port 8000 of tcp at fd00::1 is held by session 0");
    assert_eq!(refusal.code(), RefusalCode::InUse);
    let Refusal::Held { port, .. } = r.claim(B, tcp(8009, 5)).unwrap_err() else { panic!() };
    assert_eq!(port, 8009);
}

#[test]
fn a_claim_of_all_addresses_is_granted_at_all_or_at_none() {
    let mut r = registry(2);
    r.claim(A, Wish { address: Some(ip("fd00::1")), ..tcp(9000, 1) }).unwrap();
    assert!(r.claim(B, tcp(9000, 1)).is_err());
    assert_eq!(r.rules().count(), 1, "nothing of the refused claim stays");
    r.claim(B, Wish { address: Some(ip("10.0.0.1")), ..tcp(9000, 1) }).unwrap();
}

#[test]
fn what_a_session_held_is_free_when_it_ends_and_its_place_when_it_is_forgotten() {
    let mut r = Registry::new(32_768..=60_999);
    let tight = Quota { sessions: 1, ..quota() };
    r.enter(A, Entry { quota: tight, ..entry(7) }).unwrap();
    r.enter(SessionId(9), entry(8)).unwrap();
    r.claim(A, tcp(8000, 10)).unwrap();
    assert_eq!(r.end(A).len(), 1);
    r.claim(SessionId(9), tcp(8000, 10)).unwrap();
    let refusal = r.enter(B, Entry { quota: tight, ..entry(7) }).unwrap_err();
    assert_eq!(refusal, Refusal::Quota { what: Resource::Sessions, limit: 1 });
    r.forget(A);
    r.enter(B, Entry { quota: tight, ..entry(7) }).unwrap();
    assert!(r.end(A).is_empty(), "an ended session has nothing to give back");
}

#[test]
fn quotas_count_over_all_sessions_of_one_user_and_policy() {
    let mut r = Registry::new(32_768..=60_999);
    r.enter(A, entry(7)).unwrap();
    r.enter(B, entry(7)).unwrap();
    r.enter(SessionId(2), Entry { account: (7, 1), ..entry(7) }).unwrap();
    r.claim(A, tcp(8000, 60)).unwrap();
    let refusal = r.claim(B, tcp(9000, 41)).unwrap_err();
    assert_eq!(refusal, Refusal::Quota { what: Resource::Ports, limit: 100 });
    assert_eq!(refusal.code(), RefusalCode::Exhausted);
    r.claim(B, tcp(9000, 40)).unwrap();
    r.claim(SessionId(2), tcp(10_000, 100)).unwrap();
    r.release(A, tcp(8000, 60)).unwrap();
    r.claim(B, tcp(8000, 60)).unwrap();
    let refusal = r.enter(SessionId(3), Entry { slots: 2049, ..entry(7) }).unwrap_err();
    assert_eq!(refusal, Refusal::Quota { what: Resource::Slots, limit: 4096 });
}

#[test]
fn a_free_block_lies_outside_the_kernels_range_while_there_is_one() {
    let mut r = Registry::new(32_768..=60_999);
    let services = Services::parse(&["tcp/32000-62000".to_owned()]).unwrap();
    r.enter(A, Entry { services, quota: Quota { ports: 60_000, ..quota() }, ..entry(1) }).unwrap();
    let mut at = Vec::new();
    while let Ok(grant) = r.claim(A, tcp(0, 500)) {
        at.push(grant.wish.first);
    }
    // 61000..=62000 has room for two, 32000..=32767 for one, the kernel's range for 56.
    assert_eq!(at[..4], [61_000, 61_500, 32_000, 32_768], "{at:?}");
    assert_eq!(at.len(), 2 + 1 + 56);
}

#[test]
fn a_free_block_may_lie_across_the_border_of_the_kernels_range() {
    let mut r = Registry::new(32_768..=60_999);
    let services = Services::parse(&["tcp/32760-32775".to_owned()]).unwrap();
    r.enter(A, Entry { services, ..entry(1) }).unwrap();
    assert_eq!(r.claim(A, tcp(0, 16)).unwrap().wish.first, 32_760);
}

#[test]
fn a_block_is_looked_for_until_it_is_free_elsewhere_too() {
    let mut r = registry(1);
    let refusal = |port| Refusal::Kernel {
        address: ip("10.0.0.1"),
        protocol: Protocol::TCP,
        port,
        user: String::new(),
    };
    let elsewhere = [61_005, 61_017, 61_018];
    let mut asked = Vec::new();
    let mut take = |_, grant: &Grant| {
        asked.push(grant.wish.first);
        let last = grant.wish.first + grant.wish.count - 1;
        match elsewhere.iter().find(|port| (grant.wish.first..=last).contains(port)) {
            Some(port) => Err(Taken::Port(*port, refusal(*port))),
            None => Ok(()),
        }
    };
    assert_eq!(r.claim_if(A, tcp(0, 12), &mut take).unwrap().wish.first, 61_019);
    assert_eq!(asked, [61_000, 61_006, 61_018, 61_019]);
    // What the client chose is refused, and so is all if nothing can be had.
    let named =
        r.claim_if(A, tcp(61_005, 1), &mut |_, _| Err(Taken::Port(61_005, refusal(61_005))));
    assert_eq!(named.unwrap_err().code(), RefusalCode::InUse);
    let none = Refusal::Descriptors { why: "none".to_owned() };
    let all = r.claim_if(A, tcp(0, 1), &mut |_, _| Err(Taken::All(none.clone())));
    assert_eq!(all.unwrap_err(), none);
    assert_eq!(r.rules().count(), 2, "one block at two addresses, and nothing of what was refused");
}

#[test]
fn the_search_for_a_block_that_is_free_elsewhere_has_an_end() {
    let mut r = registry(1);
    let mut asked = 0;
    let refused = r.claim_if(A, tcp(0, 1), &mut |_, grant| {
        asked += 1;
        let port = grant.wish.first;
        let (address, protocol) = (ip("10.0.0.1"), Protocol::TCP);
        Err(Taken::Port(port, Refusal::Kernel { address, protocol, port, user: String::new() }))
    });
    assert_eq!(refused.unwrap_err(), Refusal::NoBlock { protocol: Protocol::TCP, count: 1 });
    assert_eq!(asked, ATTEMPTS);
}

#[test]
fn ports_kept_for_flows_leave_those_of_the_host_alone() {
    let mut r = Registry::new(32_768..=60_999);
    let set = |text: &str| Services::parse(&[text.to_owned()]).unwrap();
    r.reserve(0, ip("10.0.0.1"), &set("tcp/2000-2009"), Holder::Host);
    r.reserve(0, ip("10.0.0.1"), &set("tcp/1990-2019"), Holder::Flows);
    let held: Vec<_> = r.rules().map(|rule| (rule.first, rule.last, rule.holder)).collect();
    let expected =
        [(1990, 1999, Holder::Flows), (2000, 2009, Holder::Host), (2010, 2019, Holder::Flows)];
    assert_eq!(held, expected);
}

#[test]
fn a_block_that_was_given_back_rests_until_the_search_comes_round() {
    let mut r = registry(1);
    let first = r.claim(A, tcp(0, 16)).unwrap();
    r.release(A, first.wish).unwrap();
    let second = r.claim(A, tcp(0, 16)).unwrap();
    assert_ne!(first.wish.first, second.wish.first);
}

#[test]
fn ports_of_the_host_and_of_other_policies_are_refused() {
    let mut r = Registry::new(32_768..=60_999);
    r.reserve(0, ip("10.0.0.1"), &Services::parse(&["tcp/2222".to_owned()]).unwrap(), Holder::Host);
    r.enter(A, entry(1)).unwrap();
    let refusal = r.claim(A, tcp(2222, 1)).unwrap_err();
    assert_eq!(refusal.to_string(), "port 2222 of tcp at 10.0.0.1 is held by the host");
    let refusal = r.claim(A, tcp(80, 2)).unwrap_err();
    assert_eq!(refusal.code(), RefusalCode::NotPermitted);
    assert_eq!(
        refusal.to_string(),
        "policy does not allow tcp ports 80-81 at every address; it allows: \
         tcp/1024-65535, udp/1024-65535"
    );
    assert_eq!(r.claim(A, tcp(65_535, 2)).unwrap_err().code(), RefusalCode::Protocol);
    for count in [0, MAX_CLAIM + 1] {
        assert_eq!(r.claim(A, tcp(8000, count)).unwrap_err().code(), RefusalCode::Protocol);
    }
    let elsewhere = Wish { address: Some(ip("10.0.0.9")), ..tcp(8000, 1) };
    assert_eq!(r.claim(A, elsewhere).unwrap_err().code(), RefusalCode::NotFound);
    let icmp = Wish { protocol: Protocol::ICMP, ..tcp(0, 1) };
    assert_eq!(r.claim(A, icmp).unwrap_err().code(), RefusalCode::NotPermitted);
}

#[test]
fn an_own_address_has_one_holder_and_all_its_ports() {
    let mut r = Registry::new(32_768..=60_999);
    let own_pool = vec![ip("10.0.0.7"), ip("fd00::7"), ip("10.0.0.8"), ip("fd00::8")];
    let own = |uid| Entry { shared: Vec::new(), own_pool: own_pool.clone(), ..entry(uid) };
    assert_eq!(r.enter(A, own(1)).unwrap().own, [ip("10.0.0.7"), ip("fd00::7")]);
    assert_eq!(r.enter(B, own(2)).unwrap().own, [ip("10.0.0.8"), ip("fd00::8")]);
    assert_eq!(r.enter(SessionId(2), own(3)).unwrap_err(), Refusal::NoAddress);
    assert_eq!(r.claim(A, tcp(80, 1)).unwrap().addresses.len(), 2);
    r.claim(B, tcp(80, 1)).unwrap();
    r.end(A);
    assert_eq!(r.enter(SessionId(2), own(3)).unwrap().own, [ip("10.0.0.7"), ip("fd00::7")]);
}

#[test]
fn only_what_was_granted_can_be_released_and_only_by_its_holder() {
    let mut r = registry(2);
    let grant = r.claim(A, tcp(8000, 10)).unwrap();
    for wish in [tcp(8000, 9), tcp(8001, 9), tcp(0, 10)] {
        assert_eq!(r.release(A, wish).unwrap_err(), Refusal::NotHeld { wish });
    }
    assert!(r.release(B, grant.wish).is_err());
    r.release(A, grant.wish).unwrap();
    assert!(r.release(A, grant.wish).is_err());
}

#[derive(Clone, Debug)]
enum Op {
    Claim { session: u16, address: Option<usize>, udp: bool, first: u16, count: u16 },
    Release { session: u16, which: prop::sample::Index },
    End { session: u16 },
}

fn op() -> impl Strategy<Value = Op> {
    // Few ports, so that claims meet: 1024..=1055 and one beyond each end of what is allowed.
    let first = prop_oneof![Just(0), 1023..1057_u16];
    let claim = (0..3_u16, prop::option::of(0..2_usize), any::<bool>(), first, 1..9_u16).prop_map(
        |(session, address, udp, first, count)| Op::Claim { session, address, udp, first, count },
    );
    prop_oneof![
        6 => claim,
        3 => (0..3_u16, any::<prop::sample::Index>())
            .prop_map(|(session, which)| Op::Release { session, which }),
        1 => (0..3_u16).prop_map(|session| Op::End { session }),
    ]
}

proptest! {
    /// A claim succeeds exactly if every port of it is allowed and free in the model, a block is
    /// found exactly if there is one, and after each step the rules are the model's ports.
    #[test]
    fn claims_agree_with_a_model_of_single_ports(ops in prop::collection::vec(op(), 1..80)) {
        let services = Services::parse(&["tcp/1024-1055".into(), "udp/1024-1055".into()]).unwrap();
        let mut registry = Registry::new(1030..=1040);
        let enter = |registry: &mut Registry, session: u16| {
            let quota = Quota { ports: 1 << 20, ..quota() };
            let entry = Entry { services: services.clone(), quota, ..entry(session.into()) };
            registry.enter(SessionId(session), entry).unwrap();
        };
        (0..3).for_each(|session| enter(&mut registry, session));
        let mut model: HashMap<(IpAddr, Protocol, u16), u16> = HashMap::new();
        let mut grants: Vec<(u16, Grant)> = Vec::new();
        for op in ops {
            match op {
                Op::Claim { session, address, udp, first, count } => {
                    let protocol = if udp { Protocol::UDP } else { Protocol::TCP };
                    let address = address.map(|index| ip(SHARED[index]));
                    let targets: Vec<_> =
                        SHARED.map(ip).into_iter().filter(|a| address.is_none_or(|w| w == *a)).collect();
                    let is_free = |first: u16| {
                        (first..first + count).all(|port| {
                            (1024..=1055).contains(&port)
                                && targets.iter().all(|a| !model.contains_key(&(*a, protocol, port)))
                        })
                    };
                    let wish = Wish { address, protocol, first, count, scope: Scope::default() };
                    let possible = match first {
                        0 => (1024..=1055).any(is_free),
                        first => is_free(first),
                    };
                    match registry.claim(SessionId(session), wish) {
                        Ok(grant) => {
                            prop_assert!(possible && is_free(grant.wish.first), "{wish:?} {grant:?}");
                            prop_assert!(first == 0 || grant.wish.first == first);
                            for a in &targets {
                                for port in grant.wish.first..grant.wish.first + count {
                                    model.insert((*a, protocol, port), session);
                                }
                            }
                            grants.push((session, grant));
                        }
                        Err(refusal) => prop_assert!(!possible, "{wish:?}: {refusal}"),
                    }
                }
                Op::Release { session, which } => {
                    if grants.is_empty() {
                        continue;
                    }
                    let (holder, grant) = grants[which.index(grants.len())].clone();
                    let released = registry.release(SessionId(session), grant.wish);
                    let own = grants.iter().position(|(s, g)| *s == session && g.wish == grant.wish);
                    prop_assert_eq!(released.is_ok(), own.is_some());
                    prop_assert!(released.is_ok() || holder != session);
                    if let Some(index) = own {
                        let (_, grant) = grants.swap_remove(index);
                        remove(&mut model, &grant);
                    }
                }
                Op::End { session } => {
                    let ended = registry.end(SessionId(session));
                    registry.forget(SessionId(session));
                    let (own, others): (Vec<_>, Vec<_>) =
                        grants.into_iter().partition(|(s, _)| *s == session);
                    grants = others;
                    prop_assert_eq!(ended.len(), own.len());
                    own.iter().for_each(|(_, grant)| remove(&mut model, grant));
                    enter(&mut registry, session);
                }
            }
            let mut held = HashMap::new();
            for rule in registry.rules() {
                let Holder::Session(id) = rule.holder else { panic!("nothing was reserved") };
                for port in rule.first..=rule.last {
                    let twice = held.insert((rule.address, rule.protocol, port), id.0);
                    prop_assert_eq!(twice, None, "two rules for one port");
                }
            }
            prop_assert_eq!(&held, &model);
        }
    }
}

fn remove(model: &mut HashMap<(IpAddr, Protocol, u16), u16>, grant: &Grant) {
    for address in &grant.addresses {
        for port in grant.wish.first..grant.wish.first + grant.wish.count {
            model.remove(&(*address, grant.wish.protocol, port));
        }
    }
}
