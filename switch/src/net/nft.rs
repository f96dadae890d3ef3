//! nf_tables messages and expressions, as linux/netfilter/nf_tables.h has them.
//!
//! A rule is a list of expressions that stops at the first which does not match. Each of ours
//! loads something into register 1, compares, perhaps writes another destination into the frame, and ends
//! in `accept`.

use super::netlink::{Message, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use bytemuck::{Pod, Zeroable};

/// `struct nfgenmsg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct GenericHeader {
    family: u8,
    version: u8,
    resource: [u8; 2],
}

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFT_MSG_NEWTABLE: u8 = 0;
const NFT_MSG_DELTABLE: u8 = 2;
const NFT_MSG_NEWCHAIN: u8 = 3;
const NFT_MSG_NEWRULE: u8 = 6;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_NETDEV: u8 = 5;
const NF_NETDEV_INGRESS: u32 = 0;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
/// The table is removed when the socket that made it closes (since Linux 5.12).
const NFT_TABLE_F_OWNER: u32 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_PAYLOAD_SREG: u16 = 5;
const NFT_META_PROTOCOL: u32 = 1;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;

/// What is loaded into the register.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// The EtherType behind VLAN tags that the network card or the kernel took off.
    Protocol,
    /// Bytes of the Ethernet header, with its VLAN tag where it was on the wire.
    Link { offset: u32, len: u32 },
    /// The identifier of the outer VLAN tag, two bytes; only of frames that have one.
    VlanId,
    /// The first two bytes of the destination link address, all bits off but that of groups.
    Group,
    /// Bytes from the start of the IP header.
    Network { offset: u32, len: u32 },
}

/// `NFT_PAYLOAD_LL_HEADER`.
const LINK_HEADER: u32 = 0;

impl Load {
    fn append(self, rule: Message) -> Message {
        let (base, offset, len) = match self {
            Self::Protocol => {
                return expression(rule, "meta", |data| {
                    data.be32(NFTA_META_DREG, NFT_REG_1).be32(NFTA_META_KEY, NFT_META_PROTOCOL)
                });
            }
            Self::VlanId => {
                return Self::Link { offset: 14, len: 2 }.append_masked(rule, [0xf, 0xff]);
            }
            Self::Group => return Self::Link { offset: 0, len: 2 }.append_masked(rule, [1, 0]),
            Self::Link { offset, len } => (LINK_HEADER, offset, len),
            Self::Network { offset, len } => (1, offset, len),
        };
        expression(rule, "payload", |data| {
            data.be32(NFTA_PAYLOAD_DREG, NFT_REG_1)
                .be32(NFTA_PAYLOAD_BASE, base)
                .be32(NFTA_PAYLOAD_OFFSET, offset)
                .be32(NFTA_PAYLOAD_LEN, len)
        })
    }
}

impl Load {
    /// Loads two bytes and keeps the bits of `mask`.
    fn append_masked(self, rule: Message, mask: [u8; 2]) -> Message {
        expression(self.append(rule), "bitwise", |data| {
            data.be32(NFTA_BITWISE_SREG, NFT_REG_1)
                .be32(NFTA_BITWISE_DREG, NFT_REG_1)
                .be32(NFTA_BITWISE_LEN, 2)
                .nested(NFTA_BITWISE_MASK, |v| v.attribute(NFTA_DATA_VALUE, &mask))
                .nested(NFTA_BITWISE_XOR, |v| v.attribute(NFTA_DATA_VALUE, &[0; 2]))
        })
    }
}

/// How the register is compared with a value of the same length, as bytes in network order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Compare {
    /// Equal.
    Is = 0,
    /// Not equal.
    IsNot = 1,
    /// Not above.
    AtMost = 3,
    /// Not below.
    AtLeast = 5,
}

/// A rule that lets a frame pass if all of `tests` hold.
#[derive(Clone, Debug)]
pub(super) struct AcceptRule {
    /// What to load, how to compare, with what.
    pub(super) tests: Vec<(Load, Compare, Vec<u8>)>,
    /// Another destination link address for it.
    pub(super) readdress: Option<[u8; 6]>,
}

fn expression(rule: Message, name: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    rule.nested(NFTA_LIST_ELEM, |element| {
        element.text(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, fill)
    })
}

fn message(kind: u8, flags: u16) -> Message {
    let header = GenericHeader { family: NFPROTO_NETDEV, version: 0, resource: [0; 2] };
    Message::new(u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, kind]), flags, &header)
}

fn batch_mark(kind: u16) -> Message {
    let resource = u16::from(NFNL_SUBSYS_NFTABLES).to_be_bytes();
    Message::new(kind, 0, &GenericHeader { family: NFPROTO_UNSPEC, version: 0, resource })
}

/// The first message of a batch.
pub(super) fn batch_begin() -> Message {
    batch_mark(NFNL_MSG_BATCH_BEGIN)
}

/// The last message of a batch.
pub(super) fn batch_end() -> Message {
    batch_mark(NFNL_MSG_BATCH_END)
}

/// Makes a table that lives as long as the socket which sends this.
pub(super) fn new_owned_table(table: &str) -> Message {
    message(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL)
        .text(NFTA_TABLE_NAME, table)
        .be32(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER)
}

/// Removes a table with all that it holds.
pub(super) fn delete_table(table: &str) -> Message {
    message(NFT_MSG_DELTABLE, 0).text(NFTA_TABLE_NAME, table)
}

/// What becomes of a frame that no rule is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Otherwise {
    /// It goes no further.
    Drop,
    /// It goes on.
    Accept,
}

/// Makes a chain that sees what arrives on an interface.
pub(super) fn new_chain(
    table: &str,
    chain: &str,
    interface: &str,
    priority: i32,
    otherwise: Otherwise,
) -> Message {
    let policy = match otherwise {
        Otherwise::Drop => NF_DROP,
        Otherwise::Accept => NF_ACCEPT,
    };
    let hook = |hook: Message| {
        hook.be32(NFTA_HOOK_HOOKNUM, NF_NETDEV_INGRESS)
            .be32(NFTA_HOOK_PRIORITY, priority.cast_unsigned())
            .text(NFTA_HOOK_DEV, interface)
    };
    message(NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL)
        .text(NFTA_CHAIN_TABLE, table)
        .text(NFTA_CHAIN_NAME, chain)
        .nested(NFTA_CHAIN_HOOK, hook)
        .be32(NFTA_CHAIN_POLICY, policy)
        .text(NFTA_CHAIN_TYPE, "filter")
}

/// Appends a rule to a chain.
pub(super) fn new_rule(table: &str, chain: &str, rule: &AcceptRule) -> Message {
    let expressions = |mut list: Message| {
        for (load, compare, value) in &rule.tests {
            list = expression(load.append(list), "cmp", |data| {
                data.be32(NFTA_CMP_SREG, NFT_REG_1)
                    .be32(NFTA_CMP_OP, *compare as u32)
                    .nested(NFTA_CMP_DATA, |v| v.attribute(NFTA_DATA_VALUE, value))
            });
        }
        if let Some(to) = rule.readdress {
            list = expression(list, "immediate", |data| {
                data.be32(NFTA_IMMEDIATE_DREG, NFT_REG_1)
                    .nested(NFTA_IMMEDIATE_DATA, |v| v.attribute(NFTA_DATA_VALUE, &to))
            });
            list = expression(list, "payload", |data| {
                data.be32(NFTA_PAYLOAD_SREG, NFT_REG_1)
                    .be32(NFTA_PAYLOAD_BASE, LINK_HEADER)
                    .be32(NFTA_PAYLOAD_OFFSET, 0)
                    .be32(NFTA_PAYLOAD_LEN, 6)
            });
        }
        expression(list, "immediate", |data| {
            data.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT).nested(NFTA_IMMEDIATE_DATA, |v| {
                v.nested(NFTA_DATA_VERDICT, |verdict| verdict.be32(NFTA_VERDICT_CODE, NF_ACCEPT))
            })
        })
    };
    message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND)
        .text(NFTA_RULE_TABLE, table)
        .text(NFTA_RULE_CHAIN, chain)
        .nested(NFTA_RULE_EXPRESSIONS, expressions)
}
