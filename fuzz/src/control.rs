//! Control messages: any bytes are a datagram.

use usnet_shmring::control::{
    ASK_BYTES, Header, Kind, Message, RefusalCode, TEXT_BYTES, name_from, name_into,
};

/// Reads one datagram and checks that it was exactly one message, or none.
///
/// # Panics
///
/// If a message was read that does not go back to the same bytes, or one was refused although it is
/// well-formed.
pub fn check(datagram: &[u8]) {
    let Some((request, message)) = Message::parse(datagram) else {
        assert!(!is_well_formed(datagram), "a message was refused");
        return;
    };
    assert!(is_well_formed(datagram));
    let header = message.header(request);
    let (head, body) = datagram.split_at(size_of::<Header>());
    assert_eq!(bytemuck::bytes_of(&header), head, "the header goes back to the same bytes");
    assert_eq!(message.body(), body, "the body goes back to the same bytes");
    assert_eq!(Kind::from_u32(header.kind), Some(message.kind()));
    match message {
        Message::Attach(attach) => {
            check_name(&attach.interface);
            check_name(&attach.name);
        }
        Message::Attached(attached) => {
            for address in [attached.ipv4, attached.ipv6, attached.gateway4, attached.gateway6] {
                assert_eq!(address.ip().is_some(), matches!(address.family, 4 | 6));
            }
        }
        Message::Refused(refused) => {
            let code = RefusalCode::from_u32(refused.code);
            assert!(code as u32 == refused.code || code == RefusalCode::Internal);
            check_name(&refused.message);
        }
        Message::ClaimRule(rule) | Message::ReleaseRule(rule) | Message::RuleClaimed(rule) => {
            for address in [rule.address, rule.remote] {
                assert_eq!(address.ip().is_some(), matches!(address.family, 4 | 6));
            }
        }
        Message::Ask(ask) => {
            let used = ask.text().map_or(0, str::len);
            assert!(used <= ASK_BYTES && (used == 0 || used == ask.used as usize));
        }
        _ => {}
    }
}

/// A name from outside is printable whatever it was, and a printable one comes back as it was.
fn check_name<const N: usize>(bytes: &[u8; N]) {
    let name = name_from(bytes);
    assert!(name.len() <= N && name.bytes().all(|b| b.is_ascii_graphic() || b == b' '));
    assert_eq!(name_from(&name_into::<N>(&name)), name);
}

/// The same question by the tables of docs/protocol.md alone.
fn is_well_formed(datagram: &[u8]) -> bool {
    let word = |index: usize| {
        let bytes = datagram.get(4 * index..4 * index + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let (Some(kind), Some(length), Some(_), Some(0)) = (word(0), word(1), word(2), word(3)) else {
        return false;
    };
    let body = match kind {
        1 => 72,
        2 | 3 | 0x102 => 32,
        4 => 8,
        7 | 8 | 0x106 => 64,
        5 | 0x105 => 0,
        6 => 8 + ASK_BYTES,
        0x101 => 56 + 8 * 24,
        0x104 => 8 + TEXT_BYTES,
        0x1ff => 256,
        _ => return false,
    };
    length as usize == body && datagram.len() == 16 + body
}
