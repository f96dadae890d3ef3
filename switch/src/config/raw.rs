//! The configuration as it is written.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    pub(super) control: RawControl,
    pub(super) memory: RawMemory,
    pub(super) worker: RawWorker,
    #[serde(skip_serializing_if = "RawMetrics::is_off")]
    pub(super) metrics: RawMetrics,
    pub(super) interface: Vec<RawInterface>,
    pub(super) policy: Vec<RawPolicy>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) client: Vec<RawClient>,
}

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or a name")]
pub(super) enum Account {
    Number(u32),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawControl {
    pub(super) socket: PathBuf,
    pub(super) mode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<Account>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compat: Option<String>,
    pub(super) compat_socket: PathBuf,
}

impl Default for RawControl {
    fn default() -> Self {
        Self {
            socket: super::DEFAULT_SOCKET.into(),
            mode: "0660".to_owned(),
            group: None,
            state_dir: None,
            compat: None,
            compat_socket: super::DEFAULT_COMPAT_SOCKET.into(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) listen: Option<String>,
}

impl RawMetrics {
    fn is_off(&self) -> bool {
        self.listen.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMemory {
    pub(super) slot_size: u32,
    pub(super) port_slots: u32,
    pub(super) group_slots: u32,
    pub(super) arena_slots: u32,
    pub(super) huge_pages: bool,
}

impl Default for RawMemory {
    fn default() -> Self {
        Self {
            slot_size: 2048,
            port_slots: 8192,
            group_slots: 16_384,
            arena_slots: 1 << 20,
            huge_pages: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWorker {
    pub(super) count: u32,
    pub(super) busy_poll: bool,
    pub(super) spin_us: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<Cpus>,
}

/// Processors of the workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a list of numbers")]
pub(super) enum Cpus {
    One(u16),
    Each(Vec<u16>),
}

impl Default for RawWorker {
    fn default() -> Self {
        Self { count: 1, busy_poll: false, spin_us: 50, cpu: None }
    }
}

/// How an interface's frames are read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// A packet socket with a memory-mapped ring, on an interface that exists.
    #[default]
    AfPacket,
    /// XDP sockets, on an interface that exists.
    AfXdp,
    /// A macvtap that the daemon makes over an interface that exists, or one that exists.
    Macvtap,
    /// A TAP device of this name, which the daemon makes; the kernel is at its other end.
    Tap,
    /// Nothing but the clients: a network in memory.
    Wire,
    /// The rings of the card, and its host rings, on an interface that exists; needs the kernel
    /// module netmap.
    Netmap,
    /// The first of the others that can serve an interface that exists.
    Auto,
    /// The port of another interface, which hands over and sends the frames of one VLAN.
    Vlan,
}

impl Backend {
    /// As it is written.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AfPacket => "af_packet",
            Self::AfXdp => "af_xdp",
            Self::Macvtap => "macvtap",
            Self::Tap => "tap",
            Self::Wire => "wire",
            Self::Netmap => "netmap",
            Self::Auto => "auto",
            Self::Vlan => "vlan",
        }
    }

    /// Whether the interface is one that the kernel has.
    pub(crate) const fn has_link(self) -> bool {
        matches!(self, Self::AfPacket | Self::AfXdp | Self::Macvtap | Self::Netmap | Self::Auto)
    }
}

/// Form of the rings of a packet socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ring {
    /// TPACKET_V2: each frame is handed over at once; lowest latency.
    #[default]
    V2,
    /// TPACKET_V3: frames are handed over in blocks, at most a millisecond late; cheapest at high
    /// rates.
    V3,
}

/// Which frames XDP sockets take from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// Those that may be a client's.
    #[default]
    Claimed,
    /// All but those that only the kernel handles.
    All,
    /// All but answers to what the kernel sent, and what is for ports that stay with it: other frames do not
    /// reach it.
    Firewall,
}

/// What becomes of the table by which a card sends flows to its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rss {
    /// Every worker gets the same share of it.
    #[default]
    Workers,
    /// It is left as it is.
    Leave,
}

/// What whoever sends to a port that nobody has hears from the switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// Nothing.
    #[default]
    Drop,
    /// Of TCP a reset, else nothing.
    Reset,
    /// Of TCP a reset, of other protocols with ports that the port is unreachable.
    Unreachable,
}

impl Unmatched {
    /// As it is written.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
        }
    }
}

/// How the driver of an interface is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBusyPoll {
    pub(super) us: u32,
    pub(super) budget: u16,
}

impl Default for RawBusyPoll {
    fn default() -> Self {
        Self { us: 20, budget: 64 }
    }
}

/// What a macvtap takes of what arrives at the interface below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MacvtapKind {
    /// All: clients share link address and addresses with the kernel.
    Passthru,
    /// What is for a link address of its own: clients have addresses of their own, beside the kernel.
    Bridge,
}

/// How the kernel's own stack stays connected to an interface that is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostEndpoint {
    /// What suits the port: for `af_packet`, `af_xdp` and a `macvtap` that takes all a TAP device, or a veth pair where `/dev/net/tun` cannot
    /// be opened; for `netmap` the host rings; otherwise nothing.
    #[default]
    Auto,
    /// Through a TAP device.
    Tap,
    /// Through a veth pair.
    Veth,
    /// Not at all.
    None,
}

/// The network behind a bump in the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBehind {
    pub(super) interface: String,
    /// Not given: as in front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<Backend>,
}

/// Which VLAN of which interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVlan {
    pub(super) of: String,
    pub(super) id: u16,
}

/// Where what no client claims goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"auto\", \"tap\", \"veth\", \"none\", or { interface = \"NAME\" } with a port \
                 if that is another"
)]
pub(super) enum RawHost {
    Kernel(HostEndpoint),
    Network(RawBehind),
}

impl Default for RawHost {
    fn default() -> Self {
        Self::Kernel(HostEndpoint::Auto)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInterface {
    pub(super) name: String,
    /// Not given: that of a VLAN, or else a packet socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<Backend>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) vlan: Option<RawVlan>,
    #[serde(default)]
    pub(super) ring: Ring,
    #[serde(default)]
    pub(super) take: Take,
    #[serde(default)]
    pub(super) rss: Rss,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) macvtap: Option<MacvtapKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) busy_poll: Option<RawBusyPoll>,
    #[serde(default)]
    pub(super) host: RawHost,
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub(super) cut_through: bool,
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub(super) zero_copy_transmit: bool,
    #[serde(default)]
    pub(super) addresses: Vec<String>,
    #[serde(default)]
    pub(super) gateways: Vec<String>,
    #[serde(default)]
    pub(super) host_ports: Vec<String>,
    #[serde(default)]
    pub(super) flow_ports: Vec<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) host_ping: bool,
    #[serde(default)]
    pub(super) on_unmatched: Unmatched,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mtu: Option<u16>,
}

/// How a session's memory is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Own receive pool; frames are copied once.
    #[default]
    Isolated,
    /// A trust group: frames are handed over where they lie.
    Shared,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<Account>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gid: Option<Account>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) any: bool,
    #[serde(default)]
    pub(super) interfaces: Vec<String>,
    #[serde(default)]
    pub(super) mode: Sharing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) addresses: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) own_addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) own_prefixes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) dhcp: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) eapol: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ports: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) protocols: Vec<String>,
    #[serde(default)]
    pub(super) quota: RawQuota,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClient {
    pub(super) name: String,
    pub(super) uid: Account,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gid: Option<Account>,
    pub(super) interface: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
    pub(super) ports: Vec<String>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawQuota {
    pub(super) sessions: u32,
    pub(super) ports: u32,
    pub(super) ring_capacity: u32,
    pub(super) slots: u32,
    pub(super) flows: u32,
}

impl Default for RawQuota {
    fn default() -> Self {
        Self { sessions: 16, ports: 4096, ring_capacity: 4096, slots: 65_536, flows: 4096 }
    }
}
