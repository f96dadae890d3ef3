//! `usnet-bench tcp`

use usnet_bench::goodput::{ClientAndKernel, Direction, TwoClients, Veth};
use usnet_bench::measure::{Contender, Plan, compare};
use usnet_bench::report::Row;

/// Bytes of a slot that holds every frame that the kernel joins.
const LARGE: u32 = 65_536;

const BARE: &str = "kernel, veth without offloads";
const JOINED: &str = "kernel, veth with TSO and GRO";

pub(crate) fn run(plan: Plan, only: &str) -> Result<Vec<Row>, String> {
    let (bare, joined) = (Veth::new(false)?, Veth::new(true)?);
    let packet = ClientAndKernel::on_veth(false, "port = \"af_packet\"")?;
    let xdp = ClientAndKernel::on_veth(false, "port = \"af_xdp\"")?;
    let pinned = ClientAndKernel::on_veth(false, "port = \"af_xdp\"\n[worker]\ncpu = 0")?;
    let macvtap = ClientAndKernel::on_veth(false, "port = \"macvtap\"")?;
    let large = format!("port = \"macvtap\"\n[memory]\nslot_size = {LARGE}\nport_slots = 1024");
    let cut = ClientAndKernel::on_veth(false, &large)?;
    let passthru = ClientAndKernel::on_veth(true, &large)?;
    let tap = ClientAndKernel::on_tap(LARGE)?;
    let small = ClientAndKernel::on_tap(2048)?;
    let two = TwoClients::new(LARGE, "")?;
    let group = TwoClients::new(LARGE, "mode = \"shared\"\ngroup = \"goodput\"")?;
    let mut contenders: Vec<Contender<'_>> = vec![
        (BARE, Box::new(|time| bare.kernel(time))),
        (JOINED, Box::new(|time| joined.kernel(time))),
    ];
    // What, and which of the two it stands beside.
    let mut yardsticks = vec![0, 1];
    let pairs: [(_, [&str; 2], _); 8] = [
        (&packet, ["client -> kernel, af_packet", "kernel -> client, af_packet"], 0),
        (&xdp, ["client -> kernel, af_xdp", "kernel -> client, af_xdp"], 0),
        (&pinned, ["client -> kernel, af_xdp, pinned", "kernel -> client, af_xdp, pinned"], 0),
        (&macvtap, ["client -> kernel, macvtap", "kernel -> client, macvtap"], 0),
        // The kernel cuts what the client sends: on the veth are frames of 1,500 bytes.
        (&cut, ["client -> kernel, macvtap, cut", "kernel -> client, macvtap, cut"], 0),
        (&passthru, ["client -> kernel, macvtap, joined", "kernel -> client, macvtap, joined"], 1),
        (&tap, ["client -> kernel, tap, joined", "kernel -> client, tap, joined"], 1),
        (
            &small,
            ["client -> kernel, tap, slots of 2 KiB", "kernel -> client, tap, slots of 2 KiB"],
            1,
        ),
    ];
    for (place, names, yardstick) in pairs {
        for (name, direction) in names.into_iter().zip([Direction::Out, Direction::In]) {
            if name.contains(only) {
                contenders.push((name, Box::new(move |time| place.run(direction, time))));
                yardsticks.push(yardstick);
            }
        }
    }
    let clients = [
        (&two, "client -> client, isolated, joined"),
        (&group, "client -> client, shared, joined"),
    ];
    for (place, name) in clients.into_iter().filter(|(_, name)| name.contains(only)) {
        contenders.push((name, Box::new(move |time| place.run(time))));
        yardsticks.push(1);
    }
    let samples = compare(&mut contenders, "Mbit/s", plan)?;
    let median = |at: usize| samples.get(at).map_or(f64::NAN, |s| s.median());
    let rows = contenders.iter().zip(&yardsticks).enumerate().skip(2);
    Ok(rows
        .map(|(at, ((name, _), yardstick))| {
            let beside = if *yardstick == 0 { BARE } else { JOINED };
            Row::new(name, median(at), "Mbit/s", beside, median(*yardstick))
        })
        .collect())
}
