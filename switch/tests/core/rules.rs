//! Rules with a remote end, a priority or a group: who gets what arrives, and who may send what.

use crate::support::frames::*;
use crate::support::rig::Fate::{Client, Dropped, Host, Wire};
use crate::support::rig::{Attach, Rig};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use usnet_shmring::ledger::SessionId;
use usnet_switch::classify::{Address, Flow, Protocol};
use usnet_switch::session::InterfaceId;
use usnet_switch::steer::{MEMBERS, Prefix, Rule, RuleRefusal, SHAPES, SOURCE_RULES, Scope, Table};
use usnet_switch::switch::SwitchError;
use usnet_switch::time::Time;
use usnet_switch::verdict::DropReason::{NotPermitted, SpoofedPort};
use usnet_switch::verdict::Receiver;

const SHARED: &str = "10.0.0.1";

fn prefix(text: &str) -> Prefix {
    let (address, bits) = text.split_once('/').expect("a prefix");
    Prefix::new(ip(address), bits.parse().unwrap()).unwrap()
}

fn from(text: &str) -> Scope {
    Scope { remote: prefix(text), ..Scope::default() }
}

fn rule(protocol: u8, first: u16, count: u16, scope: Scope) -> Rule {
    let (address, protocol) = (ip(SHARED).into(), Protocol(protocol));
    Rule { address, protocol, first, count, scope, seed: 11 }
}

fn client(id: u16) -> Receiver {
    Receiver::Client(SessionId(id))
}

fn give(rig: &mut Rig, id: u16, rule: &Rule) {
    rig.switch.give_rule(InterfaceId(0), rule, client(id)).expect("given");
}

fn take(rig: &mut Rig, id: u16, rule: &Rule) {
    rig.switch.take_rule(InterfaceId(0), rule, client(id)).expect("taken");
}

fn rig(clients: u16) -> Rig {
    let mut rig = Rig::new();
    (1..=clients).for_each(|id| rig.attach_plain(id));
    rig
}

#[test]
fn the_most_specific_remote_end_comes_before_the_plain_listener_and_priority_before_both() {
    let mut rig = rig(5);
    rig.listen(1, SHARED, TCP, 80);
    let network = rule(TCP, 80, 1, from("10.0.0.0/28"));
    give(&mut rig, 2, &network);
    give(&mut rig, 3, &rule(TCP, 80, 1, from("10.0.0.9/32")));
    let with_port = Scope { remote_port: 9, ..from("10.0.0.9/32") };
    give(&mut rig, 4, &rule(TCP, 80, 1, with_port));
    let to = |from: &str, port| inward(from, SHARED).tcp(port, 80);
    assert_eq!(rig.arrives(&to("10.0.0.9", 9)), [Client(4)], "the port as well");
    assert_eq!(rig.arrives(&to("10.0.0.9", 8)), [Client(3)], "the host");
    assert_eq!(rig.arrives(&to("10.0.0.8", 9)), [Client(2)], "the network");
    assert_eq!(rig.arrives(&to("10.0.0.77", 9)), [Client(1)], "plain");
    assert_eq!(rig.arrives(&inward("10.0.0.9", SHARED).tcp(9, 81)), [Host], "another port");
    assert_eq!(rig.arrives(&inward("10.0.0.9", SHARED).udp(9, 80)), [Host], "another protocol");
    let strong = rule(TCP, 80, 1, Scope { priority: 1, ..from("10.0.0.0/8") });
    give(&mut rig, 5, &strong);
    assert_eq!(rig.arrives(&to("10.0.0.9", 9)), [Client(5)], "priority decides first");
    take(&mut rig, 5, &strong);
    take(&mut rig, 2, &network);
    assert_eq!(rig.arrives(&to("10.0.0.8", 9)), [Client(1)], "the plain one again");
    rig.claim(0, SHARED, TCP, 80, None).unwrap();
    assert_eq!(rig.arrives(&to("10.0.0.8", 9)), [Host], "nobody's, while others' rules stand");
    assert_eq!(rig.arrives(&to("10.0.0.9", 8)), [Client(3)]);
}

#[test]
fn an_exact_flow_comes_before_rules_for_its_remote_end() {
    let mut rig = rig(2);
    assert_eq!(rig.sends(1, &outward(SHARED, "10.0.0.9").udp(40_000, 53)), [Wire]);
    give(&mut rig, 2, &rule(UDP, 40_000, 1, from("10.0.0.0/24")));
    assert_eq!(rig.arrives(&inward("10.0.0.9", SHARED).udp(53, 40_000)), [Client(1)]);
    assert_eq!(rig.arrives(&inward("10.0.0.9", SHARED).udp(54, 40_000)), [Client(2)]);
}

#[test]
fn who_holds_a_port_for_some_remote_ends_sends_to_no_other() {
    let mut rig = rig(3);
    give(&mut rig, 1, &rule(UDP, 80, 1, from("10.0.0.8/29")));
    give(&mut rig, 2, &rule(UDP, 80, 1, Scope { remote_port: 5, ..from("10.0.0.16/32") }));
    let send = |to: &str, port| outward(SHARED, to).udp(80, port);
    for _ in 0..2 {
        // The second time it is remembered.
        assert_eq!(rig.sends(1, &send("10.0.0.9", 1)), [Wire]);
        assert_eq!(rig.sends(1, &send("10.0.0.16", 5)), [Dropped(SpoofedPort)], "another's");
        assert_eq!(rig.sends(1, &send("10.0.0.77", 1)), [Dropped(SpoofedPort)], "nobody's");
        assert_eq!(rig.sends(2, &send("10.0.0.16", 5)), [Wire]);
        assert_eq!(rig.sends(2, &send("10.0.0.16", 6)), [Dropped(SpoofedPort)], "the port");
        assert_eq!(rig.sends(3, &send("10.0.0.77", 1)), [Dropped(SpoofedPort)], "not learned");
    }
    take(&mut rig, 1, &rule(UDP, 80, 1, from("10.0.0.8/29")));
    take(&mut rig, 2, &rule(UDP, 80, 1, Scope { remote_port: 5, ..from("10.0.0.16/32") }));
    assert_eq!(rig.sends(3, &send("10.0.0.77", 1)), [Wire], "a port that nobody holds");
}

#[test]
fn a_protocol_without_ports_is_its_holders_both_ways() {
    let mut rig = rig(3);
    let arrives = inward("10.0.0.9", SHARED).rest(GRE);
    let leaves = outward(SHARED, "10.0.0.9").rest(GRE);
    assert_eq!(rig.arrives(&arrives), [Host]);
    assert_eq!(rig.sends(1, &leaves), [Dropped(NotPermitted)]);
    let plain = rule(GRE, 0, 0, Scope::default());
    give(&mut rig, 1, &plain);
    let narrow = rule(GRE, 0, 0, from("10.0.0.9/32"));
    assert_eq!(rig.arrives(&arrives), [Client(1)]);
    assert_eq!(rig.sends(1, &leaves), [Wire]);
    assert_eq!(rig.sends(2, &leaves), [Dropped(SpoofedPort)]);
    give(&mut rig, 2, &narrow);
    assert_eq!(rig.arrives(&arrives), [Client(2)], "the remote end decides");
    assert_eq!(rig.arrives(&inward("10.0.0.8", SHARED).rest(GRE)), [Client(1)]);
    assert_eq!(rig.sends(2, &leaves), [Wire]);
    assert_eq!(rig.sends(1, &leaves), [Dropped(SpoofedPort)]);
    take(&mut rig, 1, &plain);
    assert_eq!(rig.arrives(&inward("10.0.0.8", SHARED).rest(GRE)), [Host]);
    rig.switch.detach(SessionId(2));
    rig.take_events();
    assert_eq!(rig.arrives(&arrives), [Host], "nothing outlives its holder");
    for protocol in [ICMP, 2, 58, 0, 44] {
        let refused = rig.switch.give_rule(
            InterfaceId(0),
            &rule(protocol, 0, 0, Scope::default()),
            client(3),
        );
        assert!(
            matches!(refused, Err(SwitchError::NotClaimable { .. })),
            "{protocol}: {refused:?}"
        );
    }
}

#[test]
fn rules_of_a_session_that_ends_are_gone_and_those_of_others_stay() {
    let mut rig = rig(3);
    rig.listen(1, SHARED, TCP, 80);
    give(&mut rig, 1, &rule(TCP, 80, 3, from("10.0.0.9/32")));
    give(&mut rig, 2, &rule(TCP, 81, 1, from("10.0.0.0/24")));
    rig.switch.detach(SessionId(1));
    rig.take_events();
    let to = |port| inward("10.0.0.9", SHARED).tcp(9, port);
    assert_eq!(rig.arrives(&to(80)), [Host]);
    assert_eq!(rig.arrives(&to(81)), [Client(2)]);
    rig.attach_plain(1);
    assert_eq!(rig.arrives(&to(80)), [Host], "a number that is used again inherits nothing");
    rig.listen(3, SHARED, TCP, 80);
    assert_eq!(rig.arrives(&to(80)), [Client(3)]);
    let missing = rule(TCP, 80, 1, from("10.0.0.9/32"));
    let refused = rig.switch.give_rule(InterfaceId(0), &missing, client(9));
    assert!(matches!(refused, Err(SwitchError::NoSession(_))), "{refused:?}");
}

#[test]
fn the_host_keeps_a_port_for_a_remote_end_while_a_client_has_it_for_others() {
    let mut rig = rig(1);
    let kept = rule(TCP, 22, 1, Scope { priority: u8::MAX, ..from("10.0.0.8/29") });
    rig.switch.give_rule(InterfaceId(0), &kept, Receiver::Host).unwrap();
    rig.listen(1, SHARED, TCP, 22);
    assert_eq!(rig.arrives(&inward("10.0.0.9", SHARED).tcp(9, 22)), [Host]);
    assert_eq!(rig.arrives(&inward("10.0.0.77", SHARED).tcp(9, 22)), [Client(1)]);
    assert_eq!(rig.sends(1, &outward(SHARED, "10.0.0.9").tcp(22, 9)), [Dropped(SpoofedPort)]);
    assert_eq!(rig.sends(1, &outward(SHARED, "10.0.0.77").tcp(22, 9)), [Wire]);
}

// ---- groups ----

fn spread() -> Rule {
    rule(TCP, 80, 1, Scope { spread: true, ..Scope::default() })
}

fn owners(rig: &mut Rig, flows: u16) -> Vec<u16> {
    let mut all = Vec::new();
    for port in 1000..1000 + flows {
        match rig.arrives(&inward("10.0.0.9", SHARED).tcp(port, 80))[..] {
            [Client(id)] => all.push(id),
            ref other => panic!("{other:?}"),
        }
    }
    all
}

#[test]
fn members_of_a_group_share_the_flows_and_one_that_ends_is_out_at_the_next_frame() {
    let mut rig = rig(3);
    (1..=3).for_each(|id| give(&mut rig, id, &spread()));
    let before = owners(&mut rig, 300);
    for id in 1..=3 {
        let part = before.iter().filter(|owner| **owner == id).count();
        assert!((60..=140).contains(&part), "{id} has {part} of 300");
    }
    assert_eq!(owners(&mut rig, 300), before, "a flow stays where it is");
    rig.switch.detach(SessionId(2));
    rig.take_events();
    for (old, new) in before.iter().zip(owners(&mut rig, 300)) {
        assert!(new != 2 && (*old == new || *old == 2), "only flows of who has gone move");
    }
    take(&mut rig, 1, &spread());
    assert!(owners(&mut rig, 100).iter().all(|owner| *owner == 3));
    take(&mut rig, 3, &spread());
    assert_eq!(rig.arrives(&inward("10.0.0.9", SHARED).tcp(1000, 80)), [Host]);
}

#[test]
fn an_established_flow_stays_with_its_member_when_others_come() {
    let mut rig = rig(6);
    give(&mut rig, 1, &spread());
    for port in 1000..1040 {
        let answer = outward(SHARED, "10.0.0.9").tcp(80, port);
        assert_eq!(rig.sends(1, &answer), [Wire]);
    }
    (2..=5).for_each(|id| give(&mut rig, id, &spread()));
    assert!(
        owners(&mut rig, 40).iter().all(|owner| *owner == 1),
        "what it has answered is its own"
    );
    let new: BTreeSet<u16> = owners(&mut rig, 200)[40..].iter().copied().collect();
    assert_eq!(new, (1..=5).collect());
    let stolen = outward(SHARED, "10.0.0.9").tcp(80, 1000);
    assert_eq!(rig.sends(2, &stolen), [Dropped(SpoofedPort)], "another member's flow");
    assert_eq!(rig.sends(6, &stolen), [Dropped(SpoofedPort)], "no member");
    let free = outward(SHARED, "10.0.0.77").tcp(80, 1000);
    assert_eq!(rig.sends(6, &free), [Dropped(SpoofedPort)], "no member, free flow");
    assert_eq!(rig.sends(2, &free), [Wire]);
    assert_eq!(rig.arrives(&inward("10.0.0.77", SHARED).tcp(1000, 80)), [Client(2)]);
}

#[test]
fn a_member_whose_share_of_flows_is_used_up_still_answers() {
    let mut rig = Rig::new();
    rig.attach(&Attach { id: 1, quota: 2, ..Attach::default() });
    rig.attach_plain(2);
    (1..=2).for_each(|id| give(&mut rig, id, &spread()));
    for port in 1000..1020 {
        assert_eq!(rig.sends(1, &outward(SHARED, "10.0.0.9").tcp(80, port)), [Wire], "{port}");
    }
}

#[test]
fn a_group_of_one_remote_network_leaves_the_others_alone() {
    let mut rig = rig(3);
    let group = rule(UDP, 53, 2, Scope { spread: true, ..from("10.0.0.8/29") });
    rig.listen(3, SHARED, UDP, 53);
    (1..=2).for_each(|id| give(&mut rig, id, &group));
    assert_eq!(rig.arrives(&inward("10.0.0.77", SHARED).udp(9, 53)), [Client(3)]);
    assert_eq!(rig.arrives(&inward("10.0.0.77", SHARED).udp(9, 54)), [Host]);
    let mut seen = BTreeSet::new();
    for port in 1..60 {
        let [Client(id)] = rig.arrives(&inward("10.0.0.9", SHARED).udp(port, 54))[..] else {
            panic!("nobody");
        };
        seen.insert(id);
    }
    assert_eq!(seen, BTreeSet::from([1, 2]));
}

// ---- the table, against a naive one ----

fn table() -> Table {
    let mut table = Table::new(Some(Receiver::Host), 3);
    table.add_address(ip(SHARED).into(), Some(Receiver::Host));
    table
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing_behind() {
    let mut table = table();
    for bits in 1..=SHAPES as u8 {
        table.give(&rule(TCP, 80, 1, from(&format!("10.0.0.0/{bits}"))), client(1)).unwrap();
    }
    let one_more = rule(TCP, 80, 2, from("10.0.0.0/31"));
    assert_eq!(table.give(&one_more, client(1)), Err(RuleRefusal::Full));
    table.take(&rule(TCP, 80, 1, from("10.0.0.0/7")), client(1));
    table.give(&one_more, client(1)).unwrap();
    assert_eq!(table.give(&one_more, client(2)), Err(RuleRefusal::Taken));
    let before = table.source_rules();
    let wide = rule(TCP, 70, 30, from("10.0.0.0/31"));
    assert_eq!(table.give(&wide, client(2)), Err(RuleRefusal::Taken), "80 is another's");
    assert_eq!(table.source_rules(), before);
    let mut first = 1;
    while table.give(&rule(UDP, first, 4096, from("10.0.0.0/8")), client(1)).is_ok() {
        first += 4096;
        if first > 60_000 {
            break;
        }
    }
    let most = rule(SCTP, 1, 20_000, from("10.0.0.0/8"));
    assert_eq!(table.give(&most, client(1)), Err(RuleRefusal::Full));
    assert!(table.source_rules() <= SOURCE_RULES && table.source_rules() > SOURCE_RULES / 2);
    table.forget(client(1));
    assert_eq!(table.source_rules(), 0);
    let group = spread();
    for id in 0..MEMBERS as u16 {
        table.give(&group, client(id)).unwrap();
    }
    assert_eq!(table.give(&group, client(999)), Err(RuleRefusal::Full));
}

#[derive(Clone, Debug)]
enum Op {
    Give { id: u16, plain: bool, which: usize, first: u16, count: u16, priority: u8, port: bool },
    Take(prop::sample::Index),
    Forget(u16),
    Learn { id: u16, remote: usize, port: u16 },
}

const REMOTES: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "fd00::/16",
    "fd00::9/128",
    "192.0.2.0/24",
];
const ENDS: [&str; 6] = ["10.1.2.3", "10.1.2.4", "10.9.0.1", "192.0.2.1", "fd00::9", "fd00::a"];

fn op() -> impl Strategy<Value = Op> {
    let give = (0..4_u16, any::<bool>(), 0..8_usize, 1..6_u16, 1..4_u16, 0..3_u8, any::<bool>());
    let give = give.prop_map(|(id, plain, which, first, count, priority, port)| Op::Give {
        id,
        plain,
        which,
        first,
        count,
        priority,
        port,
    });
    prop_oneof![
        8 => give,
        3 => any::<prop::sample::Index>().prop_map(Op::Take),
        1 => (0..4_u16).prop_map(Op::Forget),
        2 => (0..4_u16, 0..ENDS.len(), 1..8_u16)
            .prop_map(|(id, remote, port)| Op::Learn { id, remote, port }),
    ]
}

fn flow(remote: &str, remote_port: u16, port: u16) -> Flow {
    Flow {
        source: ip(remote).into(),
        destination: ip(SHARED).into(),
        protocol: Protocol(TCP),
        source_port: remote_port,
        destination_port: port,
        ports_known: true,
    }
}

proptest! {
    /// Whoever a list of rules names, asked one by one in the order of the text, the table names.
    #[test]
    fn a_lookup_agrees_with_a_list_of_rules(ops in prop::collection::vec(op(), 1..60)) {
        let mut table = table();
        // (port, scope) to who has it.
        let mut all: HashMap<(u16, Scope), Receiver> = HashMap::new();
        let mut given: Vec<(Rule, Receiver)> = Vec::new();
        let mut exact: HashMap<Flow, Receiver> = HashMap::new();
        for op in ops {
            match op {
                Op::Give { id, plain, which, first, count, priority, port } => {
                    let remote_port = if port { 7 } else { 0 };
                    let scope = match plain {
                        true => Scope::default(),
                        false => Scope { priority, remote_port, ..from(REMOTES[which]) },
                    };
                    let rule = rule(TCP, first, count, scope);
                    let ports = first..first + count;
                    if ports.clone().any(|p| all.contains_key(&(p, scope))) {
                        // What the registry never lets through.
                        continue;
                    }
                    table.give(&rule, client(id)).unwrap();
                    given.push((rule, client(id)));
                    all.extend(ports.map(|p| ((p, scope), client(id))));
                }
                Op::Take(which) if !given.is_empty() => {
                    let (rule, whose) = given.swap_remove(which.index(given.len()));
                    table.take(&rule, whose);
                    for port in rule.first..rule.first + rule.count {
                        all.remove(&(port, rule.scope));
                    }
                }
                Op::Take(_) => {}
                Op::Forget(id) => {
                    table.forget(client(id));
                    all.retain(|_, whose| *whose != client(id));
                    given.retain(|(_, whose)| *whose != client(id));
                    exact.retain(|_, whose| *whose != client(id));
                }
                Op::Learn { id, remote, port } => {
                    let flow = flow(ENDS[remote], 7, port);
                    if table.learn(flow, client(id), Time(0)).is_ok() {
                        exact.insert(flow, client(id));
                    }
                }
            }
            for (remote, remote_port) in ENDS.iter().flat_map(|end| [(end, 7), (end, 8)]) {
                for port in 0..9 {
                    let flow = flow(remote, remote_port, port);
                    let source: Address = ip(remote).into();
                    let fits = |(held, scope): &&(u16, Scope)| {
                        *held == port
                            && scope.remote.contains(source)
                            && (scope.remote_port == 0 || scope.remote_port == remote_port)
                    };
                    let strength = |(_, scope): &&(u16, Scope)| {
                        (scope.priority, scope.remote.bits(), scope.remote_port != 0)
                    };
                    let listener = all.keys().filter(fits).max_by_key(strength);
                    let expected = exact.get(&flow).copied().or(listener.map(|key| all[key]));
                    prop_assert_eq!(
                        table.lookup(&flow, Time(1)),
                        expected.or(Some(Receiver::Host)),
                        "{:?}", flow
                    );
                }
            }
        }
    }
}
