//! Stage 1 of a frame's way: bytes to a [`Classified`] or a [`Malformed`].

mod key;

pub use key::{
    Address, ArpPacket, Classified, Flow, Fragment, Icmp, IpKind, IpPacket, Mac, Malformed,
    Payload, Protocol,
};
