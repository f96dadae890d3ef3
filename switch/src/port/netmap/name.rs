//! Names of ports as libnetmap's programs take them.
//!
//! ```text
//!   netmap:eth0        all rings of the card        netmap:eth0{1   a pipe's master end
//!   netmap:eth0^       the host rings               netmap:eth0}1   its other end
//!   netmap:eth0^2      host ring pair 2             vale0:x         a port of a switch of VALE
//!   netmap:eth0*       both                         ...@2           in region 2
//!   netmap:eth0-3      ring pair 3                  ...@conf:host-rings=4
//!                                                   .../xRTztr      flags
//! ```

use super::abi::{NAME_SIZE, flag, mode};
use core::fmt;
use core::str::FromStr;
use thiserror::Error;

/// Which port, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortName {
    /// The name that the kernel knows.
    pub port: String,
    /// One of [`mode`].
    pub mode: u32,
    /// Of modes with one ring.
    pub ring: u16,
    /// Of [`flag`].
    pub flags: u64,
    /// The region that is wanted; 0 leaves it to the kernel.
    pub memory_id: u16,
    /// Host rings that are wanted each way, which the first to open a card decides; 0 leaves it to the
    /// kernel.
    pub host_rings: u16,
}

/// The text is no port's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{text}` is no netmap port: {problem}")]
pub struct BadName {
    text: String,
    problem: &'static str,
}

impl PortName {
    /// All rings of a card.
    #[must_use]
    pub fn nic(port: &str) -> Self {
        Self {
            port: port.to_owned(),
            mode: mode::ALL_NIC,
            ring: 0,
            flags: 0,
            memory_id: 0,
            host_rings: 0,
        }
    }

    /// One pair of rings of a card.
    #[must_use]
    pub fn pair(port: &str, ring: u16) -> Self {
        Self { mode: mode::ONE_NIC, ring, ..Self::nic(port) }
    }

    /// One pair of host rings of a card.
    #[must_use]
    pub fn host_pair(port: &str, ring: u16) -> Self {
        Self { mode: mode::ONE_SW, ring, ..Self::nic(port) }
    }

    /// The host rings of a card.
    #[must_use]
    pub fn host(port: &str) -> Self {
        Self { mode: mode::SW, ..Self::nic(port) }
    }

    /// All rings of a card and its host rings, on one descriptor: see
    /// [`Netmap::open_both`](super::Netmap::open_both).
    #[must_use]
    pub fn both(port: &str) -> Self {
        Self { mode: mode::NIC_SW, ..Self::nic(port) }
    }

    /// The same with so many host rings each way.
    #[must_use]
    pub fn with_host_rings(self, host_rings: u16) -> Self {
        Self { host_rings, ..self }
    }

    /// Whether it hears what passes another port, and has nothing to say.
    #[must_use]
    pub fn is_monitor(&self) -> bool {
        self.flags & (flag::MONITOR_TX | flag::MONITOR_RX) != 0
    }

    /// Whether its other end may be a program that writes into the port's slots.
    #[must_use]
    pub fn has_peer(&self) -> bool {
        self.port.contains(['{', '}']) || self.port.starts_with("vale")
    }
}

impl FromStr for PortName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = |problem| BadName { text: text.to_owned(), problem };
        let number = |digits: &str, problem| digits.parse::<u16>().map_err(|_| bad(problem));
        let rest = match text.strip_prefix("netmap:") {
            Some(rest) => rest,
            None if text.starts_with("vale") => text,
            None => return Err(bad("it begins with `netmap:` or `vale`")),
        };
        let (rest, flags) = match rest.split_once('/') {
            Some((rest, letters)) => (rest, parse_flags(letters).map_err(bad)?),
            None => (rest, 0),
        };
        let (mut memory_id, mut host_rings) = (0, 0);
        let mut options = rest.split('@');
        let rest = options.next().unwrap_or_default();
        for option in options {
            match option.strip_prefix("conf:host-rings=") {
                Some(rings) => {
                    host_rings = number(rings, "behind `conf:host-rings=` stands a number")?;
                }
                None => {
                    let problem = "behind `@` stands the number of a region, or conf:host-rings=N";
                    memory_id = number(option, problem)?;
                }
            }
        }
        let (port, mode, ring) = match rest.find(['^', '*', '{', '}', '-']) {
            // VALE's own names may have a minus.
            Some(at) if !rest.starts_with("vale") || rest.get(at..=at) != Some("-") => {
                let (port, suffix) = rest.split_at(at);
                match suffix.split_at(1) {
                    ("^", "") => (port.to_owned(), mode::SW, 0),
                    ("^", ring) => {
                        let ring = number(ring, "behind `^` stands the number of a host ring")?;
                        (port.to_owned(), mode::ONE_SW, ring)
                    }
                    ("*", "") => (port.to_owned(), mode::NIC_SW, 0),
                    ("-", ring) => {
                        let ring = number(ring, "behind `-` stands the number of a ring")?;
                        (port.to_owned(), mode::ONE_NIC, ring)
                    }
                    // The kernel takes the end of a pipe from the name; modes for it are refused.
                    ("{" | "}", id) if !id.is_empty() => (rest.to_owned(), mode::ALL_NIC, 0),
                    _ => return Err(bad("nothing may follow `*`, and `{` and `}` need a name")),
                }
            }
            _ => (rest.to_owned(), mode::ALL_NIC, 0),
        };
        if port.is_empty() {
            return Err(bad("it names no interface"));
        }
        if port.len() >= NAME_SIZE || port.contains(|c: char| c.is_whitespace() || c == '\0') {
            return Err(bad("the kernel takes names of at most 63 bytes without blanks"));
        }
        if flags & flag::ZCOPY_MON != 0 && flags & (flag::MONITOR_TX | flag::MONITOR_RX) == 0 {
            return Err(bad("`z` goes with `r` or `t`: what is heard without copying"));
        }
        Ok(Self { port, mode, ring, flags, memory_id, host_rings })
    }
}

const LETTERS: [(char, u64); 6] = [
    ('x', flag::EXCLUSIVE),
    ('z', flag::ZCOPY_MON),
    ('t', flag::MONITOR_TX),
    ('r', flag::MONITOR_RX),
    ('T', flag::TX_RINGS_ONLY),
    ('R', flag::RX_RINGS_ONLY),
];

fn parse_flags(letters: &str) -> Result<u64, &'static str> {
    letters.chars().try_fold(0, |flags, letter| {
        let known = LETTERS.iter().find(|(known, _)| *known == letter);
        let (_, bit) = known.ok_or("behind `/` stand letters of x, z, t, r, T, R")?;
        Ok(flags | bit)
    })
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.port.starts_with("vale") { "" } else { "netmap:" };
        write!(f, "{prefix}{}", self.port)?;
        match self.mode {
            mode::SW => f.write_str("^")?,
            mode::NIC_SW => f.write_str("*")?,
            mode::ONE_NIC => write!(f, "-{}", self.ring)?,
            mode::ONE_SW => write!(f, "^{}", self.ring)?,
            _ => {}
        }
        if self.memory_id != 0 {
            write!(f, "@{}", self.memory_id)?;
        }
        if self.host_rings != 0 {
            write!(f, "@conf:host-rings={}", self.host_rings)?;
        }
        let set = || LETTERS.iter().filter(|(_, bit)| self.flags & bit != 0);
        if set().next().is_some() {
            f.write_str("/")?;
            set().try_for_each(|(letter, _)| write!(f, "{letter}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, u32, u16, u64, u16) {
        let name: PortName = text.parse().unwrap();
        (name.port, name.mode, name.ring, name.flags, name.memory_id)
    }

    #[test]
    fn names_are_read_as_libnetmap_reads_them() {
        assert_eq!(parsed("netmap:eth0"), ("eth0".into(), mode::ALL_NIC, 0, 0, 0));
        assert_eq!(parsed("netmap:eth0^"), ("eth0".into(), mode::SW, 0, 0, 0));
        assert_eq!(parsed("netmap:eth0^2"), ("eth0".into(), mode::ONE_SW, 2, 0, 0));
        assert_eq!(parsed("netmap:eth0*"), ("eth0".into(), mode::NIC_SW, 0, 0, 0));
        assert_eq!(parsed("netmap:eth0-3"), ("eth0".into(), mode::ONE_NIC, 3, 0, 0));
        assert_eq!(parsed("netmap:x{1"), ("x{1".into(), mode::ALL_NIC, 0, 0, 0));
        assert_eq!(parsed("netmap:x}1"), ("x}1".into(), mode::ALL_NIC, 0, 0, 0));
        assert_eq!(parsed("vale0:a-b"), ("vale0:a-b".into(), mode::ALL_NIC, 0, 0, 0));
        assert_eq!(parsed("netmap:e@7/xR").3, flag::EXCLUSIVE | flag::RX_RINGS_ONLY);
        assert_eq!(parsed("netmap:e@7/x").4, 7);
    }

    #[test]
    fn what_is_no_name_is_refused_in_words() {
        let long = format!("netmap:{}", "x".repeat(64));
        for text in [
            "eth0",
            "netmap:",
            "netmap:^",
            "netmap:e^x",
            "netmap:e-",
            "netmap:e*1",
            "netmap:e{",
            "netmap:e/q",
            "netmap:e@x",
            "netmap:e@conf:host-rings=x",
            "netmap:e/z",
            "netmap:a b",
            &long,
        ] {
            let error = text.parse::<PortName>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{text}` is no netmap port: ")));
        }
    }

    #[test]
    fn a_name_is_written_as_it_is_read() {
        for text in [
            "netmap:eth0",
            "netmap:eth0^",
            "netmap:e^2",
            "netmap:e*",
            "netmap:e-3",
            "netmap:x{1",
            "netmap:x}1",
            "vale0:x",
            "netmap:e^@2@conf:host-rings=4/x",
            "netmap:e-1/ztr",
            "netmap:e/R",
        ] {
            assert_eq!(text.parse::<PortName>().unwrap().to_string(), text);
        }
    }
}
