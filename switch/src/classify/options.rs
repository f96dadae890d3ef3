//! Options of IPv4 headers and of IPv6 hop-by-hop and destination headers: whether an end system
//! accepts them. No option is acted upon.

use super::Malformed;

/// Checks the options of an IPv4 header (RFC 791, RFC 6814), as Linux does in `__ip_options_compile`,
/// and refuses two kinds: source routes (RFC 7126 4.3, 4.4), since such a packet is on its way to
/// someone else, and security labels (CIPSO), since there is nobody here to enforce them.
#[cold]
pub(super) fn check_ipv4(mut options: &[u8]) -> Result<(), Malformed> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const RECORD_ROUTE: u8 = 7;
    const TIMESTAMP: u8 = 68;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const SECURITY_LABEL: u8 = 134;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    const ROUTER_ALERT: u8 = 148;

    let (mut routes, mut times) = (0_u8, 0_u8);
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            END => return Ok(()),
            NO_OPERATION => {
                options = rest;
                continue;
            }
            _ => {}
        }
        let len = usize::from(*rest.first().ok_or(Malformed::Ipv4)?);
        let (option, rest) = options.split_at_checked(len).ok_or(Malformed::Ipv4)?;
        let [_, _, data @ ..] = option else { return Err(Malformed::Ipv4) };
        let is_sane = match kind {
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE | SECURITY_LABEL => false,
            RECORD_ROUTE => {
                routes = routes.saturating_add(1);
                routes == 1 && has_room(data.first(), len, 4, 4)
            }
            TIMESTAMP => {
                times = times.saturating_add(1);
                times == 1 && is_timestamp(data, len)
            }
            ROUTER_ALERT => len >= 4,
            _ => true,
        };
        if !is_sane {
            return Err(Malformed::Ipv4);
        }
        options = rest;
    }
    Ok(())
}

/// Whether the pointer (1-based, of the next free byte) lies at `first` or later, and leaves either
/// no room at all or room for `entry` bytes.
fn has_room(pointer: Option<&u8>, len: usize, first: usize, entry: usize) -> bool {
    let Some(pointer) = pointer.map(|&p| usize::from(p)) else { return false };
    pointer >= first && (pointer > len || pointer.saturating_add(entry) <= len.saturating_add(1))
}

/// Pointer, then overflow count and form: times only, addresses and times, or asked addresses. One more
/// overflow than the count can say makes the packet an error (RFC 791).
fn is_timestamp(data: &[u8], len: usize) -> bool {
    let [pointer, overflow_form, ..] = data else { return false };
    if usize::from(*pointer) > len && overflow_form >> 4 == 15 {
        return false;
    }
    match overflow_form & 0x0f {
        0 => has_room(Some(pointer), len, 5, 4),
        1 | 3 => has_room(Some(pointer), len, 5, 8),
        _ => false,
    }
}

/// Checks the options of an IPv6 hop-by-hop or destination options header (RFC 8200 4.2).
///
/// Of options that it does not know a node may ignore only those with two leading zero bits. All
/// others (jumbo payload, home address) change what the packet means or where it comes from, and the
/// switch knows none of them, so they are refused. So are security labels (CALIPSO), as in IPv4.
#[cold]
pub(super) fn check_ipv6(all: &[u8]) -> Result<(), Malformed> {
    const PAD_ONE: u8 = 0;
    const PAD_MANY: u8 = 1;
    const ROUTER_ALERT: u8 = 5;
    const SECURITY_LABEL: u8 = 7;
    const IN_SITU_OAM: u8 = 0x31;
    const ACTION: u8 = 0xc0;
    /// As Linux counts by default (`net.ipv6.max_hbh_opts_number`).
    const MAX_OPTIONS: usize = 8;

    let (mut count, mut padding) = (0_usize, 0_usize);
    let mut options = all;
    while let Some((&kind, rest)) = options.split_first() {
        if kind == PAD_ONE {
            padding = padding.saturating_add(1);
            options = rest;
        } else {
            let (&len, rest) = rest.split_first().ok_or(Malformed::ExtensionHeaders)?;
            let len = usize::from(len);
            let (data, rest) = rest.split_at_checked(len).ok_or(Malformed::ExtensionHeaders)?;
            if kind == PAD_MANY {
                padding = padding.saturating_add(len).saturating_add(2);
                if data.iter().any(|&byte| byte != 0) {
                    return Err(Malformed::ExtensionHeaders);
                }
            } else {
                padding = 0;
                count = count.saturating_add(1);
                let is_sane = match kind {
                    ROUTER_ALERT => len == 2,
                    SECURITY_LABEL => false,
                    // On a multiple of four (RFC 9486), where two bytes of header come before `all`.
                    IN_SITU_OAM => all.len().wrapping_sub(options.len()) & 3 == 2,
                    _ => kind & ACTION == 0,
                };
                if !is_sane {
                    return Err(Malformed::ExtensionHeaders);
                }
            }
            options = rest;
        }
        // More than seven bytes align nothing: a hidden channel (RFC 4942 2.1.9.5).
        if padding > 7 || count > MAX_OPTIONS {
            return Err(Malformed::ExtensionHeaders);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_options_are_whole_or_malformed() {
        for good in [
            &[][..],
            &[1, 1, 1, 1],
            &[0, 0xff, 0xff, 0xff],
            &[1, 0, 131, 3],
            &[148, 4, 0, 0],
            &[222, 2, 222, 2],
            &[222, 3, 9, 1],
        ] {
            assert_eq!(check_ipv4(good), Ok(()), "{good:?}");
        }
        for bad in [&[222][..], &[222, 0, 0, 0], &[222, 1, 0, 0], &[222, 5, 0, 0], &[1, 1, 1, 7]] {
            assert_eq!(check_ipv4(bad), Err(Malformed::Ipv4), "{bad:?}");
        }
    }

    #[test]
    fn a_source_route_leads_to_someone_else() {
        for kind in [131, 137] {
            assert_eq!(check_ipv4(&[kind, 7, 4, 10, 0, 0, 7, 0]), Err(Malformed::Ipv4));
            assert_eq!(check_ipv4(&[kind, 7, 8, 10, 0, 0, 7, 0]), Err(Malformed::Ipv4), "used up");
        }
    }

    #[test]
    fn a_security_label_needs_somebody_to_enforce_it() {
        assert_eq!(check_ipv4(&[134, 8, 0, 0, 0, 1, 1, 2]), Err(Malformed::Ipv4));
        assert_eq!(check_ipv6(&[7, 4, 0, 0, 0, 1]), Err(Malformed::ExtensionHeaders));
    }

    #[test]
    fn a_record_of_the_route_has_room_or_is_full() {
        assert_eq!(check_ipv4(&[7, 7, 4, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(check_ipv4(&[7, 7, 8, 1, 2, 3, 4, 0]), Ok(()), "full");
        assert_eq!(check_ipv4(&[7, 3, 4, 0]), Ok(()), "full from the start");
        for pointer in [0, 3, 5, 6, 7] {
            let verdict = check_ipv4(&[7, 7, pointer, 0, 0, 0, 0, 0]);
            assert_eq!(verdict, Err(Malformed::Ipv4), "{pointer}");
        }
        assert_eq!(check_ipv4(&[7, 2, 1, 1]), Err(Malformed::Ipv4), "no pointer");
        assert_eq!(check_ipv4(&[7, 3, 4, 7, 3, 4, 0, 0]), Err(Malformed::Ipv4), "two");
    }

    #[test]
    fn a_timestamp_has_a_form_and_room_for_it() {
        assert_eq!(check_ipv4(&[68, 8, 5, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(check_ipv4(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(check_ipv4(&[68, 12, 5, 3, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(check_ipv4(&[68, 8, 9, 0xe0, 0, 0, 0, 0]), Ok(()), "full");
        assert_eq!(check_ipv4(&[68, 8, 9, 0xf0, 0, 0, 0, 0]), Err(Malformed::Ipv4), "too full");
        for bad in [
            &[68, 3, 5, 0][..],
            &[68, 8, 4, 0, 0, 0, 0, 0],
            &[68, 8, 6, 0, 0, 0, 0, 0],
            &[68, 8, 5, 1, 0, 0, 0, 0],
            &[68, 8, 5, 2, 0, 0, 0, 0],
            &[68, 4, 5, 0, 68, 4, 5, 0],
        ] {
            assert_eq!(check_ipv4(bad), Err(Malformed::Ipv4), "{bad:?}");
        }
        assert_eq!(check_ipv4(&[148, 3, 0, 0]), Err(Malformed::Ipv4), "a short router alert");
    }

    #[test]
    fn ipv6_options_are_whole_or_malformed() {
        for good in [
            &[][..],
            &[0, 0, 0, 0, 0, 0],
            &[1, 4, 0, 0, 0, 0],
            &[5, 2, 0, 0, 1, 0],
            &[0x1e, 0, 0x3e, 0, 1, 0],
            &[0x3f, 4, 5, 7, 0xc2, 0xff],
            &[1, 5, 0, 0, 0, 0, 0, 5, 2, 0, 0, 1, 5, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(check_ipv6(good), Ok(()), "{good:?}");
        }
        for bad in [&[5][..], &[1, 5, 0, 0, 0, 0], &[0x1e, 255, 0, 0, 0, 0], &[0, 0, 0, 0, 0, 1]] {
            assert_eq!(check_ipv6(bad), Err(Malformed::ExtensionHeaders), "{bad:?}");
        }
    }

    #[test]
    fn an_ipv6_option_that_must_be_understood_is_refused() {
        for kind in 2..=255 {
            let verdict = check_ipv6(&[kind, 4, 0, 0, 0, 0]);
            // A router alert has two bytes, and there is nobody here to enforce a label.
            // Measurements do not begin at once.
            let is_ignored = kind < 0x40 && ![5, 7, 0x31].contains(&kind);
            assert_eq!(verdict.is_ok(), is_ignored, "{kind:#x}");
        }
    }

    #[test]
    fn in_situ_measurements_are_aligned() {
        assert_eq!(check_ipv6(&[1, 0, 0x31, 2, 0, 0]), Ok(()));
        for bad in [&[0x31, 4, 0, 0, 0, 0][..], &[0, 0x31, 3, 0, 0, 0], &[1, 1, 0, 0x31, 1, 0]] {
            assert_eq!(check_ipv6(bad), Err(Malformed::ExtensionHeaders), "{bad:?}");
        }
    }

    #[test]
    fn ipv6_padding_is_short_and_empty() {
        assert_eq!(check_ipv6(&[1, 6, 0, 0, 0, 0, 0, 0]), Err(Malformed::ExtensionHeaders));
        assert_eq!(check_ipv6(&[0; 8]), Err(Malformed::ExtensionHeaders));
        assert_eq!(check_ipv6(&[0; 7]), Ok(()));
        assert_eq!(check_ipv6(&[1, 4, 0, 0, 0, 1]), Err(Malformed::ExtensionHeaders));
    }

    #[test]
    fn at_most_eight_ipv6_options_are_looked_at() {
        assert_eq!(check_ipv6(&[0x1e, 0].repeat(8)), Ok(()));
        assert_eq!(check_ipv6(&[0x1e, 0].repeat(9)), Err(Malformed::ExtensionHeaders));
    }
}
