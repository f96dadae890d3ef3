//! What becomes of a frame: exactly one verdict each, and a reason for every drop.

use serde::Serialize;
use usnet_shmring::ledger::SessionId;

/// Who may receive frames on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Receiver {
    /// The kernel's stack, through the interface's host port.
    Host,
    /// An attached client.
    Client(SessionId),
}

/// A receiver or none, in 16 bits, for dense tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct ReceiverCode(u16);

impl ReceiverCode {
    pub(crate) const NONE: Self = Self(0);
    /// No receiver: there are rules that speak of the remote end.
    pub(crate) const SOURCES: Self = Self(2);

    pub(crate) const fn of(receiver: Option<Receiver>) -> Self {
        match receiver {
            None => Self::NONE,
            Some(Receiver::Host) => Self(1),
            Some(Receiver::Client(session)) => Self(16 + session.0),
        }
    }

    /// As a number, 0 for none.
    pub(crate) const fn bits(self) -> u16 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    #[inline]
    pub(crate) const fn receiver(self) -> Option<Receiver> {
        match self.0 {
            1 => Some(Receiver::Host),
            client @ 16.. => Some(Receiver::Client(SessionId(client - 16))),
            _ => None,
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a frame found no receiver.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in counters and tables.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    /// The classifier refused the frame.
    Malformed => "malformed",
    /// Sent to a link address that is not the interface's.
    NotForUs => "not_for_us",
    /// A client tagged it: in which VLAN its frames are is not for it to say.
    Vlan => "vlan",
    /// No rule matches and there is no host stack.
    NoReceiver => "no_receiver",
    /// The client's rx ring is full.
    RingFull => "ring_full",
    /// The client keeps as many received slots as its rx and fill ring have cells together.
    TooManyHeld => "too_many_held",
    /// No free slot to put the frame in.
    NoSlot => "no_slot",
    /// The port did not take it.
    PortFull => "port_full",
    /// A client sent from a link address that is not its own.
    SpoofedMac => "spoofed_mac",
    /// A client sent from a network address that is not its own.
    SpoofedAddress => "spoofed_address",
    /// A client sent from a port that it does not hold, or with a number that another uses (of an echo, of DHCP).
    SpoofedPort => "spoofed_port",
    /// A client sent a kind of frame that clients may not send.
    NotPermitted => "not_permitted",
    /// A client sent to itself.
    ToSelf => "to_self",
    /// Longer than the interface allows.
    TooLong => "too_long",
    /// The table of learned flows is full, or the client's share of it is used up, or of groups that it may
    /// have joined, or of questions of DHCP.
    TableFull => "table_full",
    /// A later piece of a datagram, the first of which did not come in time.
    PieceAlone => "piece_alone",
    /// A later piece of a datagram that came before the first, when too many waited for theirs.
    PiecesFull => "pieces_full",
    /// Nobody receives it, and the switch has answered as many such frames as it may.
    TooManyAnswers => "too_many_answers",
    /// The session ended while the frame was on its way.
    SessionEnded => "session_ended",
}

impl DropReason {
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();
}
