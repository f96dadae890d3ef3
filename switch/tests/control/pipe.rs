//! A program behind a pipe of netmap, which knows nothing of usnet, is a client like any other.

use crate::daemon::{Daemon, until};
use crate::peer::{Client, UDP, claim};
use std::cell::Cell;
use usnet::{Claim, Options, Session};
use usnet_shmring::arena::{Arena, SlotRange, SlotSize};
use usnet_shmring::pool::Pool;
use usnet_shmring::region::Writer;
use usnet_switch::classify::Mac;
use usnet_switch::pipe::Bridge;
use usnet_switch::port::netmap::double::Double;
use usnet_switch::port::netmap::{Netmap, NetmapSpec};
use usnet_switch::port::{Burst, Port};
use usnet_switch::time::Time;

fn pool() -> Pool {
    let arena = Arena::reserve(1024, SlotSize::DEFAULT).unwrap();
    Pool::new(SlotRange::whole(arena.add_segment("t", Writer::Daemon, 256, false).unwrap()))
        .unwrap()
}

#[test]
fn a_program_behind_a_pipe_speaks_with_the_clients_of_the_daemon() {
    let daemon = Daemon::start("");
    let mut client = Client::attach(&daemon.socket(), "client");
    client.peer.claim(claim(UDP, 5000, 1)).unwrap();

    let double = Double::new().unwrap();
    let end = |name: &str| {
        let name = name.parse().unwrap();
        let spec = NetmapSpec { name, mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 };
        Netmap::open(&double, &spec, None).unwrap()
    };
    let (ours, mut program) = (end("netmap:x{1"), end("netmap:x}1"));
    let options = Options { socket: daemon.socket(), ..Options::named("pipe") };
    let mut session = Session::attach(options).unwrap();
    session.claim(Claim::port(UDP, 9000)).unwrap();
    let (_grant, _control, frames) = session.into_parts();
    let mut bridge = Bridge::new(frames, Box::new(ours), pool());
    let mut slots = pool();
    let now = Cell::new(0);
    let mut turn = || {
        now.set(now.get() + 1);
        bridge.turn(Time(now.get())).unwrap();
    };

    for number in 0..100u32 {
        // There ...
        let question = client.datagram(9000, 5000, &number.to_be_bytes());
        let mut frame = slots.alloc().unwrap();
        assert!(slots.fill(&mut frame, &question));
        let mut burst = Burst::new();
        burst.push(frame).unwrap();
        program.transmit(Time(0), &mut slots, &mut burst).unwrap();
        let heard = until("the question", || {
            turn();
            client.poll_frame()
        });
        assert_eq!(heard, question);
        // ... and back.
        let answer = client.datagram(5000, 9000, &number.to_be_bytes());
        until("a slot", || {
            client.view.transmitter.reclaim().unwrap();
            (client.view.transmitter.free() > 0).then_some(())
        });
        client.transmit(&answer);
        let heard = until("the answer", || {
            turn();
            let mut burst = Burst::new();
            program.receive(Time(0), &mut slots, &mut burst).unwrap();
            burst.pop()
        });
        assert_eq!(slots.bytes(&heard), answer);
        slots.free(heard);
    }
    // It is held to its claim.
    let mut lie = client.datagram(5000, 5000, b"not mine");
    lie[6..12].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    let mut frame = slots.alloc().unwrap();
    assert!(slots.fill(&mut frame, &lie));
    let mut burst = Burst::new();
    burst.push(frame).unwrap();
    program.transmit(Time(0), &mut slots, &mut burst).unwrap();
    until("the drop", || {
        turn();
        let drops = &daemon.clients()[1]["counters"]["dropped_from"];
        (drops["spoofed_mac"] == 1).then_some(())
    });
}
