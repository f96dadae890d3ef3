//! Every real frame, and every beginning of one, is classified as recorded in `golden/classify.txt`.
//!
//! The record has a line a capture: its name, how its frames were classified and how often, and a hash
//! over every detail of the answers; then a line a reason for which beginnings of frames are malformed.
//! Where a change is meant, `USNET_BLESS=1 cargo test -p usnet-switch --test classify_corpus` writes
//! the record anew, and the difference is what the reviewer reads.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::{env, fs};
use usnet_fuzz::corpus::{self, Frame};
use usnet_switch::classify::{
    Classified, Fragment, HEAD_LEN, Icmp, IpKind, Malformed, Payload, classify, classify_head,
};

type Verdict = Result<Classified, Malformed>;

/// FNV-1a over what is written to it.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

/// A few words that say what a frame was taken for.
fn label(verdict: &Verdict) -> String {
    let classified = match verdict {
        Err(malformed) => return format!("!{malformed:?}"),
        Ok(classified) => classified,
    };
    let mut label = match classified.payload {
        Payload::Arp(arp) => format!("arp{}", arp.operation),
        Payload::Eapol => "eapol".to_owned(),
        Payload::Other(length) if length < 0x0600 => "802.3".to_owned(),
        Payload::Other(ether_type) => format!("{ether_type:#06x}"),
        Payload::Ip(packet) => {
            let family = if packet.flow.source.to_ip().is_ipv4() { 4 } else { 6 };
            let protocol = match packet.kind {
                IpKind::Plain => match packet.flow.protocol.0 {
                    6 => "tcp".to_owned(),
                    17 => "udp".to_owned(),
                    number => format!("ip{number}"),
                },
                IpKind::Icmp(Icmp::Other { kind, .. }) => format!("icmp{kind}"),
                IpKind::Icmp(Icmp::Error { quoted: Some(_) }) => "error+quote".to_owned(),
                IpKind::Icmp(Icmp::Error { quoted: None }) => "error".to_owned(),
                IpKind::Icmp(Icmp::NeighborSolicitation { .. }) => "solicitation".to_owned(),
                IpKind::Icmp(Icmp::NeighborAdvertisement { .. }) => "advertisement".to_owned(),
                IpKind::Icmp(other) => format!("{other:?}").to_lowercase(),
                IpKind::Igmp => "igmp".to_owned(),
                IpKind::DhcpRequest => "dhcp>".to_owned(),
                IpKind::DhcpReply => "dhcp<".to_owned(),
            };
            let piece = match packet.fragment {
                Fragment::Whole => "",
                Fragment::First { .. } => " first",
                Fragment::Later { .. } => " later",
            };
            format!("{protocol}/{family}{piece}")
        }
    };
    for id in [classified.vlan, classified.inner_vlan].into_iter().flatten() {
        write!(label, " vlan{id}").unwrap();
    }
    label
}

fn record() -> String {
    let mut captures: BTreeMap<&str, (BTreeMap<String, usize>, Hash)> = BTreeMap::new();
    let mut beginnings: BTreeMap<String, usize> = BTreeMap::new();
    let mut hash = Hash::new();
    for Frame { bytes, wire_len, capture } in corpus::ethernet() {
        let (labels, details) =
            captures.entry(capture).or_insert_with(|| (BTreeMap::new(), Hash::new()));
        for verdict in [classify(bytes), classify_head(bytes, wire_len)] {
            write!(details, "{verdict:?}").unwrap();
        }
        *labels.entry(label(&classify(bytes))).or_default() += 1;
        for len in 0..bytes.len() {
            let verdict = classify(&bytes[..len]);
            let outcome = match verdict {
                Ok(classified) => {
                    let Payload::Ip(packet) = classified.payload else { continue };
                    write!(hash, "{len} {}", packet.end).unwrap();
                    "understood without what is missing".to_owned()
                }
                Err(malformed) => format!("!{malformed:?}"),
            };
            *beginnings.entry(outcome).or_default() += 1;
        }
    }
    let mut record = String::new();
    for (capture, (labels, details)) in captures {
        let labels: Vec<_> =
            labels.iter().map(|(label, count)| format!("{count} {label}")).collect();
        writeln!(record, "{capture}: {} #{:016x}", labels.join(", "), details.0).unwrap();
    }
    writeln!(record, "\nbeginnings of frames #{:016x}", hash.0).unwrap();
    for (outcome, count) in beginnings {
        writeln!(record, "  {count} {outcome}").unwrap();
    }
    record
}

#[test]
fn real_frames_and_their_beginnings_are_classified_as_recorded() {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/golden/classify.txt"].iter().collect();
    let record = record();
    if env::var_os("USNET_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &record).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    for (number, (now, recorded)) in record.lines().zip(golden.lines()).enumerate() {
        assert_eq!(now, recorded, "line {}; see the head of this test", number + 1);
    }
    assert_eq!(record.lines().count(), golden.lines().count());
}

#[test]
fn a_head_answers_like_the_frame_or_says_that_it_is_too_short() {
    let (mut whole, mut short) = (0, 0);
    for Frame { bytes, .. } in corpus::ethernet() {
        let verdict = classify(bytes);
        assert_ne!(verdict, Err(Malformed::HeadTooShort));
        let mut answered = false;
        for len in 0..=bytes.len() {
            let by_head = classify_head(&bytes[..len], bytes.len());
            if by_head == Err(Malformed::HeadTooShort) {
                assert!(!answered, "a longer head cannot say less");
                short += usize::from(len >= HEAD_LEN);
            } else {
                assert_eq!(by_head, verdict);
                answered = true;
                whole += 1;
            }
        }
        assert!(answered);
    }
    assert!(whole > 1_000_000, "{whole} heads were enough");
    assert!(short < 100, "{short} heads of {HEAD_LEN} bytes or more were too short");
}

#[test]
fn bytes_past_a_packet_change_nothing() {
    for Frame { bytes, .. } in corpus::ethernet() {
        let verdict = classify(bytes);
        if verdict.is_ok() {
            let padded = [bytes, &[0x55; 9]].concat();
            assert_eq!(classify(&padded), verdict);
        }
    }
}
