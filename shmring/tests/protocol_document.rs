//! `docs/protocol.md` says what the code does: its tables are read and compared with the constants.
//!
//! The document is the text that clients in other languages are written from, so a number that is
//! wrong there is a fault like any other.

use core::mem::{offset_of, size_of};
use rustix::fs::SealFlags;
use usnet_shmring::arena::SlotSize;
use usnet_shmring::control::{
    ASK_BYTES, Address, Ask, Attach, Attached, Claim, Header, Kind, MAX_DESCRIPTORS, MAX_MESSAGE,
    Mode, Query, QueryKind, RefusalCode, Refused, Rule, SegmentAccess, SegmentInfo, TEXT_BYTES,
    Text, features, rule_flags,
};
use usnet_shmring::descriptor::{Fault, MAX_OFFSET, MAX_SLOTS, RawDescriptor, RingName};
use usnet_shmring::layout::{
    CELLS, INBOUND_MAGIC, LINE, OUTBOUND_MAGIC, PAIRS, RegionHeader, VERSION, Word, cells_size,
    pair_size, region_size,
};
use usnet_shmring::offload;
use usnet_shmring::pool::MIN_FRAME;
use usnet_shmring::region::Writer;
use usnet_shmring::ring::{MAX_CAPACITY, is_capacity};

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// The text between the heading `### name` and the next heading.
fn section(name: &str) -> &'static str {
    let start = DOCUMENT
        .find(&format!("\n### {name}\n"))
        .unwrap_or_else(|| panic!("the document has no section {name:?}"));
    let body = &DOCUMENT[start + 1..];
    let end = body[3..].find("\n#").map_or(body.len(), |end| end + 3);
    &body[..end]
}

/// The rows of the first table under a heading, without its head.
fn table(name: &str) -> Vec<Vec<&'static str>> {
    let rows: Vec<_> = section(name)
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "section {name:?} has no table");
    rows
}

fn number(text: &str) -> usize {
    text.strip_prefix("0x")
        .map_or_else(|| text.parse(), |hex| usize::from_str_radix(hex, 16))
        .unwrap_or_else(|_| panic!("{text:?} is no number"))
}

/// The first column as numbers, the second as names.
fn numbered(name: &str) -> Vec<(usize, String)> {
    table(name).iter().map(|row| (number(row[0]), row[1].to_owned())).collect()
}

/// All numbers below `end` that `name` knows, with their names.
fn known(end: u32, name: impl Fn(u32) -> Option<String>) -> Vec<(usize, String)> {
    (0..end).filter_map(|n| Some((n as usize, name(n)?))).collect()
}

fn field_size<S, F>(_: impl Fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// Compares a table of offset, size and field, and the sentence `Size N.`, with a structure.
macro_rules! same_layout {
    ($section:literal, $structure:ty { $($field:ident),* $(,)? }) => {{
        let written: Vec<(usize, usize, &str)> = table($section)
            .iter()
            .map(|row| (number(row[0]), number(row[1]), row[2]))
            .collect();
        let coded = vec![$((
            offset_of!($structure, $field),
            field_size(|s: &$structure| &s.$field),
            stringify!($field),
        )),*];
        assert_eq!(written, coded, "section {}", $section);
        let covered: usize = coded.iter().map(|(_, size, _)| size).sum();
        assert_eq!(covered, size_of::<$structure>(), "{} has a field that is not named", $section);
        let size = format!("Size {}.", size_of::<$structure>());
        assert!(section($section).contains(&size), "section {} lacks {size:?}", $section);
    }};
}

#[test]
fn messages_lie_byte_by_byte_as_the_document_says() {
    same_layout!("Header", Header { kind, length, request, reserved });
    same_layout!(
        "Attach",
        Attach {
            version,
            ring_capacity,
            receive_slots,
            transmit_slots,
            interface,
            name,
            features,
            reserved,
        }
    );
    same_layout!(
        "Attached",
        Attached {
            version,
            session,
            mode,
            ring_capacity,
            slot_size,
            mtu,
            inbound_size,
            outbound_size,
            mac,
            pairs,
            ipv4,
            ipv6,
            gateway4,
            gateway6,
            segments,
            features,
            reserved,
        }
    );
    same_layout!("Address", Address { bytes, family, prefix, reserved });
    same_layout!("SegmentInfo", SegmentInfo { access, descriptor, first, count, offset });
    same_layout!("Claim", Claim { address, first_port, count, protocol, reserved });
    same_layout!(
        "Rule",
        Rule {
            address,
            remote,
            first_port,
            count,
            remote_port,
            protocol,
            priority,
            flags,
            reserved,
        }
    );
    same_layout!("Query", Query { what, which });
    same_layout!("Ask", Ask { what, used, words });
    same_layout!("Text", Text { used, more, bytes });
    same_layout!("Refused", Refused { code, message });
}

#[test]
fn the_region_header_lies_as_the_document_says() {
    same_layout!(
        "Region header",
        RegionHeader { magic, version, pairs, ring_capacity, slot_size, size, reserved }
    );
    for magic in [INBOUND_MAGIC, OUTBOUND_MAGIC] {
        let magic = String::from_utf8(magic.to_vec()).unwrap();
        assert!(section("Region header").contains(&format!("`{magic}`")));
    }
}

#[test]
fn every_number_of_the_protocol_has_the_name_in_the_document() {
    assert_eq!(numbered("Kinds"), known(0x400, |n| Kind::from_u32(n).map(|k| format!("{k:?}"))));
    assert_eq!(numbered("Modes"), known(64, |n| Mode::from_u32(n).map(|m| format!("{m:?}"))));
    assert_eq!(
        numbered("Queries"),
        known(64, |n| QueryKind::from_u32(n).map(|q| format!("{q:?}")))
    );
    let refusal = |n| {
        let code = RefusalCode::from_u32(n);
        (code as u32 == n).then(|| format!("{code:?}"))
    };
    assert_eq!(numbered("Refusals"), known(64, refusal));
    let access = [SegmentAccess::Transmit, SegmentAccess::Receive, SegmentAccess::Group];
    let coded: Vec<_> = access.iter().map(|a| (*a as usize, format!("{a:?}"))).collect();
    assert_eq!(numbered("Segment access"), coded);
}

#[test]
fn limits_are_those_of_the_document() {
    let smallest = (0..=MAX_CAPACITY).find(|c| is_capacity(*c)).unwrap();
    let slots: Vec<u32> =
        (0..32).filter_map(|shift| SlotSize::new(1 << shift).map(SlotSize::bytes)).collect();
    let coded = [
        ("VERSION", VERSION as usize),
        ("MAX_MESSAGE", MAX_MESSAGE),
        ("MAX_DESCRIPTORS", MAX_DESCRIPTORS),
        ("TEXT_BYTES", TEXT_BYTES),
        ("ASK_BYTES", ASK_BYTES),
        ("MIN_CAPACITY", smallest as usize),
        ("MAX_CAPACITY", MAX_CAPACITY as usize),
        ("MAX_SLOTS", MAX_SLOTS as usize),
        ("MAX_OFFSET", MAX_OFFSET.into()),
        ("MIN_FRAME", MIN_FRAME.into()),
        ("MIN_SLOT_SIZE", slots[0] as usize),
        ("MAX_SLOT_SIZE", slots[slots.len() - 1] as usize),
        ("LINE", LINE),
        ("PAIRS", PAIRS),
        ("CELLS", CELLS),
    ];
    let written: Vec<_> = table("Limits").iter().map(|row| (row[0], number(row[1]))).collect();
    assert_eq!(written, coded);
}

#[test]
fn words_and_cells_lie_where_the_document_says() {
    let words = [
        Word::FirstProduced,
        Word::SecondProduced,
        Word::FirstConsumed,
        Word::SecondConsumed,
        Word::Sleeps,
    ];
    let coded: Vec<_> = words.iter().map(|w| (w.offset(), format!("{w:?}"))).collect();
    assert_eq!(numbered("Words"), coded);

    let cells: Vec<_> = table("Cells").iter().map(|row| (row[0], row[1])).collect();
    let second = format!("{CELLS} + 8 * capacity");
    assert_eq!(cells, [(CELLS.to_string().as_str(), "0"), (second.as_str(), "1")]);
    assert_eq!(cells_size(64), 8 * 64);

    for row in table("Sizes") {
        let capacity = u32::try_from(number(row[0])).unwrap();
        assert_eq!(number(row[1]), pair_size(capacity), "pair of {capacity}");
        assert_eq!(number(row[2]), region_size(1, capacity), "region of {capacity}");
    }
}

#[test]
fn descriptor_bits_are_those_of_the_document() {
    let ones = RawDescriptor(u64::MAX);
    let read = |field: &str, raw: RawDescriptor| match field {
        "slot" => u64::from(raw.slot()),
        "offset" => raw.offset().into(),
        "length" => raw.length().into(),
        "flags" => raw.flags().into(),
        other => panic!("a descriptor has no field {other:?}"),
    };
    let mut covered = 0u64;
    for row in table("Descriptor") {
        let (lowest, bits, field) = (number(row[0]), number(row[1]), row[2]);
        let mask = (1u64 << bits) - 1;
        assert_eq!(read(field, ones), mask, "width of {field}");
        assert_eq!(read(field, RawDescriptor(mask << lowest)), mask, "place of {field}");
        assert_eq!(read(field, RawDescriptor(!(mask << lowest))), 0, "place of {field}");
        covered |= mask << lowest;
    }
    assert_eq!(covered, u64::MAX);
}

#[test]
fn features_and_flags_are_those_of_the_document() {
    let features: Vec<_> = table("Features").iter().map(|row| (number(row[0]), row[1])).collect();
    let coded = [(features::UNFINISHED, "UNFINISHED"), (features::RULES, "RULES")];
    assert_eq!(features, coded.map(|(bit, name)| (bit as usize, name)));
    assert_eq!(rule_flags::SPREAD, 1);
    assert!(section("Rule").contains("0x1 (SPREAD)"));
    let mut covered = 0;
    for row in table("Descriptor flags") {
        let (lowest, bits, name) = (number(row[0]), number(row[1]), row[2]);
        let mask = ((1usize << bits) - 1) << lowest;
        let coded = match name {
            "OPEN" => offload::OPEN.into(),
            "SOUND" => offload::SOUND.into(),
            "SEGMENT" => usize::from(offload::MAX_SEGMENT / offload::SEGMENT_UNIT) << lowest,
            other => panic!("no flag is named {other:?}"),
        };
        assert_eq!(mask, coded, "{name}");
        covered |= mask;
    }
    assert_eq!(covered, (1 << 12) - 1);
    assert!(
        section("Descriptor flags").contains(&format!("units of {} bytes", offload::SEGMENT_UNIT))
    );
}

#[test]
fn seals_are_those_of_the_document() {
    let bits = |name: &str| match name {
        "SEAL" => SealFlags::SEAL,
        "SHRINK" => SealFlags::SHRINK,
        "GROW" => SealFlags::GROW,
        _ => SealFlags::FUTURE_WRITE,
    };
    for (value, name) in [(1, "SEAL"), (2, "SHRINK"), (4, "GROW"), (0x10, "FUTURE_WRITE")] {
        assert_eq!(bits(name).bits(), value, "F_SEAL_{name}");
        assert!(section("Seals").contains(&format!("0x{value:02x} ")), "F_SEAL_{name}");
    }
    for row in table("Seals") {
        let writer = match row[0] {
            "inbound region" | "Receive segment" => Writer::Daemon,
            _ => Writer::Client,
        };
        assert_eq!(number(row[1]), writer.seals().bits() as usize, "{}", row[0]);
    }
}

#[test]
fn the_document_names_every_fault() {
    let ring = RingName::Tx;
    let faults = [
        Fault::Overrun { ring, claimed: 0, capacity: 0 },
        Fault::Position { ring, moved: 0, most: 0 },
        Fault::NoSuchSlot { ring, slot: 0, count: 0 },
        Fault::NotHeld { ring, slot: 0 },
        Fault::OutOfSlot { ring, offset: 0, length: 0, slot_size: 0 },
        Fault::UnknownFlags { ring, flags: 0 },
    ];
    let coded = faults.map(|fault| {
        // A new fault must be entered above, then in the document.
        let (Fault::Overrun { .. }
        | Fault::Position { .. }
        | Fault::NoSuchSlot { .. }
        | Fault::NotHeld { .. }
        | Fault::OutOfSlot { .. }
        | Fault::UnknownFlags { .. }) = fault;
        let text = format!("{fault:?}");
        text.split(' ').next().unwrap_or_default().to_owned()
    });
    let written: Vec<_> = table("Fault kinds").iter().map(|row| row[0]).collect();
    assert_eq!(written, coded);
}
