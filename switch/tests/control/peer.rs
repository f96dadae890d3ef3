//! A minimal client: the control protocol and the rings, without the client library.

use crate::daemon::until;
use bytemuck::Zeroable;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::OwnedFd;
use std::path::Path;
use usnet_shmring::control::{
    Attach, Attached, Channel, ChannelError, Claim, Message, RefusalCode, name_from, name_into,
};
use usnet_shmring::layout::VERSION;
use usnet_shmring::view::{Signals, View};

/// A refusal, as code and words.
pub(crate) type Refused = (RefusalCode, String);

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Every address, `count` ports from `first`.
pub(crate) fn claim(protocol: u8, first_port: u16, count: u16) -> Claim {
    Claim { first_port, count, protocol, ..Claim::zeroed() }
}

pub(crate) fn wish(name: &str) -> Attach {
    Attach {
        version: VERSION,
        ring_capacity: 64,
        receive_slots: 64,
        transmit_slots: 64,
        interface: name_into(""),
        name: name_into(name),
        features: 0,
        reserved: 0,
    }
}

/// A connection, perhaps not attached.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) channel: Channel,
    request: u32,
}

impl Peer {
    pub(crate) fn connect(socket: &Path) -> Self {
        let channel = Channel::connect(socket).unwrap();
        set_socket_timeout(&channel, Timeout::Recv, Some(crate::daemon::PATIENCE)).unwrap();
        Self { channel, request: 0 }
    }

    pub(crate) fn send(&mut self, message: &Message) -> Result<(), ChannelError> {
        self.request += 1;
        self.channel.send(self.request, message, &[], SendFlags::empty())
    }

    pub(crate) fn receive(&self) -> Result<Message, ChannelError> {
        self.channel.receive(RecvFlags::empty()).map(|(_, message)| message)
    }

    pub(crate) fn ask(&mut self, message: &Message) -> Result<Message, Refused> {
        self.send(message).unwrap();
        match self.receive().unwrap() {
            Message::Refused(refused) => {
                Err((RefusalCode::from_u32(refused.code), name_from(&refused.message)))
            }
            answer => Ok(answer),
        }
    }

    pub(crate) fn claim(&mut self, wish: Claim) -> Result<Claim, Refused> {
        self.ask(&Message::Claim(wish)).map(|answer| match answer {
            Message::Claimed(claim) => claim,
            other => panic!("{other:?}"),
        })
    }

    pub(crate) fn release(&mut self, granted: Claim) -> Result<(), Refused> {
        self.ask(&Message::Release(granted)).map(|answer| match answer {
            Message::Claimed(claim) => assert_eq!(claim, granted),
            other => panic!("{other:?}"),
        })
    }

    /// Attaches and maps.
    pub(crate) fn attach(mut self, wish: &Attach) -> Result<Client, Refused> {
        self.send(&Message::Attach(*wish)).unwrap();
        let mut descriptors = Vec::new();
        let (_, answer) = self.channel.receive_with_descriptors(&mut descriptors).unwrap();
        match answer {
            Message::Attached(attached) => {
                let outbound = descriptors[1].try_clone().unwrap();
                let (mut views, signals) = View::map(&attached, descriptors).unwrap();
                let view = views.remove(0);
                Ok(Client { peer: self, attached, view, others: views, signals, outbound })
            }
            Message::Refused(refused) => {
                Err((RefusalCode::from_u32(refused.code), name_from(&refused.message)))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Whether the daemon has hung up: reads what it still said, until the end.
    pub(crate) fn until_hung_up(&self) -> Vec<Message> {
        let mut said = Vec::new();
        loop {
            match self.receive() {
                Ok(message) => said.push(message),
                Err(ChannelError::Closed) => return said,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// An attached client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: Peer,
    pub(crate) attached: Attached,
    /// Of the first queue pair.
    pub(crate) view: View,
    /// Of the other pairs.
    pub(crate) others: Vec<View>,
    pub(crate) signals: Signals,
    /// The region that it writes, for those who write it by hand.
    pub(crate) outbound: OwnedFd,
}

impl Client {
    pub(crate) fn attach(socket: &Path, name: &str) -> Self {
        Peer::connect(socket).attach(&wish(name)).unwrap()
    }

    /// The view of a queue pair.
    pub(crate) fn pair(&mut self, pair: usize) -> &mut View {
        if pair == 0 { &mut self.view } else { &mut self.others[pair - 1] }
    }

    /// Sends one frame and wakes the daemon if it sleeps.
    pub(crate) fn transmit(&mut self, frame: &[u8]) {
        self.transmit_on(0, frame);
    }

    pub(crate) fn transmit_on(&mut self, pair: usize, frame: &[u8]) {
        let view = self.pair(pair);
        let mut slot = view.transmitter.next().expect("a free transmit slot");
        slot.as_mut_slice()[..frame.len()].copy_from_slice(frame);
        slot.send(frame.len()).unwrap();
        if view.transmitter.publish() && view.peer.must_wake() {
            rustix::io::write(&self.signals.kick, &1u64.to_ne_bytes()).unwrap();
        }
    }

    /// The next frame.
    pub(crate) fn receive_frame(&mut self) -> Vec<u8> {
        until("a frame", || self.poll_frame())
    }

    /// A frame, if one is there.
    pub(crate) fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.poll_on(0)
    }

    pub(crate) fn poll_on(&mut self, pair: usize) -> Option<Vec<u8>> {
        let receiver = &mut self.pair(pair).receiver;
        if receiver.left() == 0 {
            receiver.receive().unwrap();
        }
        let bytes = receiver.next().map(|frame| {
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(&mut bytes);
            bytes
        });
        receiver.give_back();
        bytes
    }

    /// A UDP datagram between two ports of the interface's own IPv4 address.
    pub(crate) fn datagram(&self, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let address = &self.attached.ipv4.bytes[..4];
        let udp = u16::try_from(8 + payload.len()).unwrap();
        let mut frame = [self.attached.mac, self.attached.mac].concat();
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + udp).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
        frame.extend([address, address].concat());
        frame.extend(from.to_be_bytes());
        frame.extend(to.to_be_bytes());
        frame.extend(udp.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame
    }
}
