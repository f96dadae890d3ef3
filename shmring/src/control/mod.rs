//! The control protocol: fixed-size messages over a `SOCK_SEQPACKET` Unix socket.
//!
//! ```text
//!   client                                   daemon
//!     Attach   ------------------------------->   identity from SO_PEERCRED, policy, memory
//!              <------- Attached + descriptors    [inbound, outbound, kick, wake, segments...]
//!     Claim    ------------------------------->   ports are granted or refused, atomically
//!              <------------- Claimed | Refused
//!     Release, ClaimRule, ReleaseRule, Query, Ask, Detach ...
//! ```
//!
//! - One datagram is one message: a [`Header`] and the body of its kind, exactly.
//! - The daemon takes no descriptors, no sizes and no addresses from a client. What a client asks
//!   for is a wish; what it gets is in the answer.
//! - Numbers are little-endian. `docs/protocol.md` is the normative text.

mod channel;
mod message;

pub use channel::{Channel, ChannelError, MAX_DESCRIPTORS, MAX_MESSAGE};
pub use message::{
    ASK_BYTES, Address, Ask, Attach, Attached, Claim, Header, Kind, Message, Mode, Query,
    QueryKind, RefusalCode, Refused, Rule, SegmentAccess, SegmentInfo, TEXT_BYTES, Text, features,
    name_from, name_into, rule_flags,
};
