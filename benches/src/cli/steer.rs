//! `usnet-bench steer`

#![expect(clippy::cast_possible_truncation, reason = "numbers of rules are small")]

use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use usnet_bench::measure::{Contender, Plan, compare};
use usnet_bench::report::Row;
use usnet_shmring::ledger::SessionId;
use usnet_switch::classify::{Address, Flow, Protocol};
use usnet_switch::steer::{Prefix, Rule, Scope, Table};
use usnet_switch::time::Time;
use usnet_switch::verdict::Receiver;

const UNIT: &str = "ns";
/// Lookups in an order that caches do not like.
const LOOKUPS: usize = 1 << 16;
/// Ports of one address that rules are made for.
const PORTS: u32 = 62_500;

/// A table with rules, and flows that find them.
struct Case {
    count: u32,
    table: Table,
    flows: Vec<Flow>,
}

fn client(number: u32) -> Receiver {
    Receiver::Client(SessionId((number % 4096) as u16))
}

fn local(number: u32) -> Address {
    let [_, a, b, c] = number.to_be_bytes();
    Address::v4([10, a, b, c])
}

fn flow(remote: u32, address: u32, port: u16) -> Flow {
    Flow {
        source: Address::v4((0xc000_0000 | remote).to_be_bytes()),
        destination: local(address),
        protocol: Protocol::UDP,
        source_port: 9,
        destination_port: port,
        ports_known: true,
    }
}

/// Numbers below `count`.
fn scattered(count: u32) -> impl Iterator<Item = u32> {
    let mut state = 1u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 33) % u64::from(count)) as u32
    })
    .take(LOOKUPS)
}

fn table(addresses: u32) -> Table {
    let mut table = Table::new(Some(Receiver::Host), 1);
    (0..addresses).for_each(|number| table.add_address(local(number), Some(Receiver::Host)));
    table
}

fn place(rule: u32) -> (u32, u16) {
    (rule / PORTS, (1024 + rule % PORTS) as u16)
}

/// So many ports, of as many addresses as it takes, of so many clients.
fn listeners(count: u32, clients: u32) -> Case {
    let mut table = table(count.div_ceil(PORTS));
    for rule in 0..count {
        let (address, port) = place(rule);
        table.set_listener(local(address), Protocol::UDP, port, 1, Some(client(rule % clients)));
    }
    let to = |rule| {
        let (address, port) = place(rule);
        flow(rule, address, port)
    };
    Case { count, table, flows: scattered(count).map(to).collect() }
}

/// A port of each of so many addresses.
fn addresses(count: u32) -> Case {
    let mut table = table(count);
    for address in 0..count {
        table.set_listener(local(address), Protocol::UDP, 80, 1, Some(client(address)));
    }
    let flows = scattered(count).map(|address| flow(address, address, 80)).collect();
    Case { count, table, flows }
}

fn remote(number: u32, bits: u8) -> Prefix {
    let ip = IpAddr::from((0xc000_0000 | number).to_be_bytes());
    Prefix::new(ip, bits).unwrap_or(Prefix::ANY)
}

fn give(table: &mut Table, number: u32, remote: Prefix) -> Result<(), String> {
    let scope = Scope { remote, ..Scope::default() };
    let (address, protocol, count) = (local(0), Protocol::UDP, 1);
    let rule = Rule { address, protocol, first: 80, count, scope, seed: 1 };
    table.give(&rule, client(number)).map_err(|refusal| format!("{rule:?}: {refusal:?}"))
}

/// So many remote ends of one port.
fn remotes(count: u32) -> Result<Case, String> {
    let mut table = table(1);
    (0..count).try_for_each(|number| give(&mut table, number, remote(number, 32)))?;
    Ok(Case { count, table, flows: scattered(count).map(|n| flow(n, 0, 80)).collect() })
}

/// So many kinds of remote ends of one port, none of which fits.
fn kinds(count: u32) -> Result<Case, String> {
    let mut table = table(1);
    table.set_listener(local(0), Protocol::UDP, 80, 1, Some(client(1)));
    for kind in 0..count {
        let ip = IpAddr::from([203, 0, 113, 7]);
        let bits = u8::try_from(32 - kind).map_err(|error| error.to_string())?;
        give(&mut table, kind, Prefix::new(ip, bits).unwrap_or(Prefix::ANY))?;
    }
    Ok(Case { count, table, flows: scattered(4096).map(|n| flow(n, 0, 80)).collect() })
}

/// So many flows that were learned.
fn exact(count: u32) -> Case {
    let mut table = table(1);
    let is_in = |table: &mut Table, n: u32| table.learn(flow(n, 0, 80), client(n), Time(0)).is_ok();
    let known: Vec<u32> = (0..count).filter(|n| is_in(&mut table, *n)).collect();
    let flows = scattered(known.len() as u32);
    let flows = flows.filter_map(|n| Some(flow(*known.get(n as usize)?, 0, 80))).collect();
    Case { count, table, flows }
}

/// Nanoseconds a lookup.
fn lookup(case: &mut Case, limit: Duration) -> Result<f64, String> {
    let (mut found, mut asked) = (0usize, 0usize);
    let begin = Instant::now();
    while begin.elapsed() < limit {
        for flow in &case.flows {
            let receiver = case.table.lookup(black_box(flow), Time(1));
            found += usize::from(matches!(receiver, Some(Receiver::Client(_))));
        }
        asked += case.flows.len();
    }
    if found != asked || asked == 0 {
        return Err(format!("{found} of {asked} lookups found their rule"));
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of lookups")]
    let each = begin.elapsed().as_secs_f64() * 1e9 / asked as f64;
    Ok(each)
}

/// Rows whose yardstick is the first of them.
fn family(what: &str, mut cases: Vec<Case>, plan: Plan) -> Result<Vec<Row>, String> {
    let names: Vec<String> =
        cases.iter().map(|case| format!("lookup, {} {what}", case.count)).collect();
    let mut contenders: Vec<Contender<'_>> = names
        .iter()
        .zip(&mut cases)
        .map(|(name, case)| {
            let run: Box<dyn FnMut(Duration) -> Result<f64, String>> =
                Box::new(move |time| lookup(case, time));
            (name.as_str(), run)
        })
        .collect();
    let samples = compare(&mut contenders, UNIT, plan)?;
    let first = samples.first().map_or(f64::NAN, |first| first.median());
    let yardstick = names.first().map_or("", String::as_str);
    let row = |(name, samples): (&String, &usnet_bench::measure::Samples)| {
        Row::new(name, samples.median(), UNIT, yardstick, first)
    };
    Ok(names.iter().zip(&samples).map(row).collect())
}

/// A kind of rules, and how its cases are made.
type Family = (&'static str, fn() -> Result<Vec<Case>, String>);

const FAMILIES: [Family; 6] = [
    ("ports", || Ok(decades(1_000_000).map(|count| listeners(count, 64)).collect())),
    ("clients with 50,000 ports", || {
        let all = |clients| Case { count: clients, ..listeners(50_000, clients) };
        Ok(decades(1000).map(all).collect())
    }),
    ("local addresses", || Ok(decades(1000).map(addresses).collect())),
    ("remote ends of a port", || decades(10_000).chain([60_000]).map(remotes).collect()),
    ("kinds of remote ends, none fits", || [1, 4, 16].map(kinds).into_iter().collect()),
    ("learned flows", || Ok(decades(10_000).map(exact).collect())),
];

fn decades(most: u32) -> impl Iterator<Item = u32> {
    (0..7).map(|exponent| 10u32.pow(exponent)).filter(move |n| *n <= most)
}

pub(crate) fn run(plan: Plan, only: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (what, cases) in FAMILIES.into_iter().filter(|(what, _)| what.contains(only)) {
        rows.extend(family(what, cases()?, plan)?);
    }
    Ok(rows)
}
