//! One worker or several, each on a processor of its own together with its clients' side.
//!
//! ```text
//!   thread 0, processor 0:  generator 0 -> switch 0 -> sink 0     queue pair 0 of both sessions
//!   thread 1, processor 1:  generator 1 -> switch 1 -> sink 1     queue pair 1 of both sessions
//! ```
//!
//! Made from the daemon's own memory: one arena, one region each way, one book of learned flows. Two
//! daemons of one worker each share nothing at all; what two workers of one daemon lose against them is
//! what sharing costs.

use crate::client::{Generator, Sink};
use crate::pin::pin_or_warn;
use crate::rig::{self, ADDRESS, MAC, PORTS, RING, SLOTS, check_conserved, nowhere, say};
use std::os::fd::AsFd;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use usnet_shmring::arena::SlotSize;
use usnet_shmring::control::{Address, Attached, Mode};
use usnet_shmring::layout::VERSION;
use usnet_shmring::ledger::SessionId;
use usnet_shmring::view::View;
use usnet_switch::classify::{Mac, Protocol};
use usnet_switch::config;
use usnet_switch::control::memory::{Memory, Shape};
use usnet_switch::session::SessionSpec;
use usnet_switch::steer::book::{Book, WorkerId};
use usnet_switch::switch::{Behind, InterfaceSpec, Switch};
use usnet_switch::time::Time;

/// How long each runs before it counts.
const WARM_UP: Duration = Duration::from_millis(30);
/// Frames may be under way for so long at the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A worker with its queue pairs' other ends.
struct Lane {
    switch: Switch,
    generator: Generator,
    sink: Sink,
}

/// Moves frames of `size` bytes through `daemons` daemons of `workers` workers each, every worker on the
/// next processor; returns millions a second of all together.
///
/// # Errors
/// What could not be made, or what does not add up.
pub fn run(daemons: usize, workers: u16, size: usize, time: Duration) -> Result<f64, String> {
    let mut lanes = Vec::new();
    for _ in 0..daemons {
        lanes.extend(daemon(workers, size)?);
    }
    let start = Barrier::new(lanes.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .into_iter()
            .enumerate()
            .map(|(cpu, lane)| {
                let start = &start;
                scope.spawn(move || {
                    pin_or_warn(cpu, "worker");
                    lane.run(start, time)
                })
            })
            .collect();
        let mut total = 0.0;
        for thread in threads {
            total += thread.join().map_err(|_| "a worker panicked".to_owned())??;
        }
        Ok(total)
    })
}

impl Lane {
    fn run(mut self, start: &Barrier, time: Duration) -> Result<f64, String> {
        start.wait();
        let begin = Instant::now();
        let mut counted = 0;
        let mut seconds = 0.0;
        for (part, length) in [WARM_UP, time].into_iter().enumerate() {
            let (from, before) = (Instant::now(), self.sink.received);
            while from.elapsed() < length {
                for _ in 0..64 {
                    self.turn(begin)?;
                }
            }
            if part == 1 {
                counted = self.sink.received - before;
                seconds = from.elapsed().as_secs_f64();
            }
        }
        let end = Instant::now();
        while !self.generator.is_done()? || self.sink.received < self.generator.sent {
            self.switch.step(Time(nanoseconds(begin)));
            self.sink.turn()?;
            if end.elapsed() > PATIENCE {
                return Err("frames did not arrive".to_owned());
            }
        }
        self.switch.step(Time(nanoseconds(begin)));
        check_conserved(&self.switch.snapshot())?;
        std::hint::black_box(self.sink.sum);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        Ok(counted as f64 / seconds / 1e6)
    }

    #[inline]
    fn turn(&mut self, begin: Instant) -> Result<(), String> {
        self.generator.turn()?;
        self.switch.step(Time(nanoseconds(begin)));
        self.sink.turn()?;
        Ok(())
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A daemon's switches with a generator (session 0) and a sink (session 1) of one trust group.
fn daemon(workers: u16, size: usize) -> Result<Vec<Lane>, String> {
    let pairs = u32::from(workers);
    let memory = config::Memory {
        slot_size: SlotSize::DEFAULT,
        port_slots: 1024 * pairs,
        group_slots: 2 * SLOTS * pairs,
        arena_slots: 1 << 14,
        huge_pages: false,
    };
    let (mut memory, pools) =
        Memory::new(&memory, workers.into()).map_err(say("make the daemon's memory"))?;
    let book = Arc::new(Book::new(1 << 10, 1));
    let mut switches = Vec::new();
    for (number, pool) in pools.into_iter().enumerate() {
        let mut switch = Switch::new(pool, 1);
        let interface = InterfaceSpec {
            mac: Mac(MAC),
            mtu: 1500,
            addresses: vec![ADDRESS.into()],
            wire: nowhere(),
            host: None,
            behind: Behind::Kernel,
            cut_through: true,
            kernel_hears: Vec::new(),
            unmatched: usnet_switch::config::Unmatched::Drop,
        };
        let interface = switch.add_interface(interface).map_err(say("add an interface"))?;
        let worker =
            u32::try_from(number).ok().and_then(WorkerId::new).ok_or("too many workers")?;
        if workers > 1 {
            switch
                .share_flows(interface, Arc::clone(&book), worker)
                .map_err(say("share learned flows"))?;
        }
        switches.push((switch, interface));
    }
    let generators = attach(&mut memory, &mut switches, 0)?;
    let sinks = attach(&mut memory, &mut switches, 1)?;
    let views = generators.into_iter().zip(sinks);
    let lanes = switches.into_iter().zip(views).map(|((switch, _), (generator, sink))| Lane {
        switch,
        generator: Generator::new(generator, rig::frame(0, size)),
        sink: Sink::new(sink),
    });
    Ok(lanes.collect())
}

/// Attaches a session to all workers and maps its side: a view for each queue pair.
fn attach(
    memory: &mut Memory,
    switches: &mut [(Switch, usnet_switch::session::InterfaceId)],
    number: u16,
) -> Result<Vec<View>, String> {
    let pairs = u16::try_from(switches.len()).map_err(say("count the workers"))?;
    let shape = Shape { pairs, ring_capacity: RING, transmit_slots: SLOTS, receive_slots: 0 };
    let (shares, client) =
        memory.build(shape, Some("bench")).map_err(say("make a session's memory"))?;
    let id = SessionId(number);
    let port = PORTS.get(usize::from(number)).copied().unwrap_or(0);
    for ((switch, interface), share) in switches.iter_mut().zip(shares) {
        let spec = SessionSpec {
            id,
            interface: *interface,
            queues: share.queues,
            transmit: share.transmit,
            receive: share.receive,
            group: share.group,
            addresses: vec![ADDRESS.into()],
            exclusive: Vec::new(),
            wake: Some(share.wake),
            flow_quota: 16,
            groups: Vec::new(),
            may: usnet_switch::session::May::default(),
            offload: false,
        };
        switch.attach(spec).map_err(say("attach"))?;
        switch
            .set_listener(*interface, ADDRESS.into(), Protocol::UDP, port, 1, Some(id))
            .map_err(say("claim a port"))?;
    }
    let attached = Attached {
        version: VERSION,
        session: number.into(),
        mode: Mode::Shared as u32,
        ring_capacity: RING,
        slot_size: memory.slot_size().bytes(),
        mtu: 1500,
        inbound_size: client.inbound_size,
        outbound_size: client.outbound_size,
        mac: MAC,
        pairs,
        ipv4: Address::new(ADDRESS.into(), 24),
        ipv6: Address::default(),
        gateway4: Address::default(),
        gateway6: Address::default(),
        segments: client.segments,
        features: 0,
        reserved: 0,
    };
    let descriptors: Result<Vec<_>, _> =
        client.descriptors().iter().map(|fd| fd.as_fd().try_clone_to_owned()).collect();
    let descriptors = descriptors.map_err(say("duplicate a descriptor"))?;
    let (views, _) = View::map(&attached, descriptors).map_err(say("map a session"))?;
    Ok(views)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_of_one_daemon_move_frames_and_lose_none() {
        let rate = run(1, 2, 64, Duration::from_millis(20)).expect("two workers");
        assert!(rate > 0.0);
    }
}
