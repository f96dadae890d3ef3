//! The other ways to bind a card's rings: one pair, nobody else's, more host rings, and by ear.
//!
//! ```text
//!   IF-0                     one ring pair            frames leave by it
//!   IF/x                     nobody else's            a second user is refused, and let in after
//!   IF@conf:host-rings=2     two pairs of host rings  the kernel's frames come out of the two
//!   IF/tr                    a monitor                hears what the card's rings send
//! ```

use super::{Bench, LINK_PATIENCE, NetmapArgs, SIZE, settle, wait_for_link};
use crate::report::Report;
use std::io;
use usnet_switch::port::af_packet::AfPacket;

/// How many host rings are asked for.
pub(super) const HOST_RINGS: u16 = 2;

/// Tries them all. `kernel` is a packet socket on the interface itself.
pub(super) fn names(
    bench: &mut Bench,
    args: &NetmapArgs,
    mtu: u16,
    kernel: &mut AfPacket,
    report: &mut Report,
) -> io::Result<()> {
    let name = args.interface.as_str();
    report.progress("other ways to bind its rings");
    exclusive(bench, name, mtu, report)?;
    host_rings(bench, name, mtu, kernel, report)?;
    one_pair(bench, args, mtu, report)
}

fn exclusive(bench: &mut Bench, name: &str, mtu: u16, report: &mut Report) -> io::Result<()> {
    const WHAT: &str = "exclusive rings keep a second user out";
    let ours = match bench.parse(&format!("netmap:{name}/x"), mtu) {
        Ok(port) => port,
        Err(error) => {
            report.add(WHAT, false, None, "", &error.to_string());
            return Ok(());
        }
    };
    let second = bench.parse(&format!("netmap:{name}"), mtu);
    let is_refused = second.is_err();
    if let Ok(second) = second {
        bench.close(second);
    }
    bench.close(ours);
    let after = bench.parse(&format!("netmap:{name}"), mtu);
    let note = match (&after, is_refused) {
        (Ok(_), true) => String::new(),
        (Ok(_), false) => "the second was let in".to_owned(),
        (Err(error), _) => format!("afterwards: {error}"),
    };
    report.add(WHAT, note.is_empty(), None, "", &note);
    if let Ok(after) = after {
        bench.close(after);
    }
    Ok(())
}

/// The kernel's frames, from two pairs of host rings. Which pair each comes out of is the kernel's
/// choice: it goes by the processor that sends.
fn host_rings(
    bench: &mut Bench,
    name: &str,
    mtu: u16,
    kernel: &mut AfPacket,
    report: &mut Report,
) -> io::Result<()> {
    const WHAT: &str = "kernel to two pairs of host rings";
    let card = bench.parse(&format!("netmap:{name}@conf:host-rings={HOST_RINGS}"), mtu)?;
    let mut host = match bench.parse(&format!("netmap:{name}^"), mtu) {
        Ok(port) => port,
        Err(error) => {
            bench.close(card);
            report.add(WHAT, false, None, "", &error.to_string());
            return Ok(());
        }
    };
    wait_for_link(name)?;
    let expected = usize::from(HOST_RINGS);
    if host.rings() == (expected, expected) {
        bench.try_settled_path(WHAT, kernel, &mut host, report)?;
        bench.try_path("and back", &mut host, kernel, 64, report)?;
    } else {
        report.add(WHAT, false, None, "", &format!("{:?} rings were opened", host.rings()));
    }
    bench.close(host);
    bench.close(card);
    Ok(())
}

/// One ring pair that sends, and a monitor that hears it; what the other end sees, if there is one.
fn one_pair(bench: &mut Bench, args: &NetmapArgs, mtu: u16, report: &mut Report) -> io::Result<()> {
    const HEARD: &str = "a monitor hears what it sends";
    let name = args.interface.as_str();
    let mut pair = bench.parse(&format!("netmap:{name}-0"), mtu)?;
    report.add("ring pair 0 opens alone", pair.rings() == (1, 1), None, "", "");
    wait_for_link(name)?;
    let mut there = match &args.peer {
        Some(peer) => Some(bench.far_end(peer, mtu)?),
        None => None,
    };
    if let Some(there) = &mut there {
        bench.try_settled_path(
            "ring pair 0 to the other end",
            &mut pair,
            there.as_mut(),
            report,
        )?;
    }
    match bench.parse(&format!("netmap:{name}/tr"), mtu) {
        Ok(mut monitor) => {
            // Without another end frames still leave by the rings, once the link is up.
            let is_heard = settle(&mut pair, &mut monitor, &mut bench.pool, SIZE, LINK_PATIENCE)?;
            report.add(HEARD, is_heard, None, "", "");
            bench.close(monitor);
        }
        Err(error) => report.add(HEARD, false, None, "", &error.to_string()),
    }
    if let Some(mut there) = there {
        there.close(&mut bench.pool);
    }
    bench.close(pair);
    Ok(())
}
