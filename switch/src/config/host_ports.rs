//! Ports that stay with the kernel's stack, all of them or for one remote end: `tcp/22`, `tcp/22 from 192.0.2.0/24`.

use super::{Network, Services};
use crate::classify::Protocol;
use crate::steer::Prefix;
use core::ops::RangeInclusive;
use std::net::IpAddr;

/// Ports that stay with the kernel's stack for some remote ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSource {
    /// IP protocol.
    pub protocol: Protocol,
    /// Which ports.
    pub ports: RangeInclusive<u16>,
    /// Of frames from where.
    pub remote: Prefix,
}

/// Most ports that can stay with the kernel's stack for some remote ends, each counted for each of these.
const MOST: usize = 4096;

/// Reads a list of texts.
///
/// # Errors
/// The index of the first that is refused, and what it must be.
pub(super) fn parse(texts: &[String]) -> Result<(Services, Vec<HostSource>), (usize, String)> {
    let (mut all, mut some) = (Vec::new(), Vec::new());
    for (index, text) in texts.iter().enumerate() {
        let (ports, remote) = match text.split_once(" from ") {
            Some((ports, remote)) => (ports, Some(remote.trim())),
            None => (text.as_str(), None),
        };
        let services: Services =
            ports.trim().parse().map_err(|refused| (index, format!("{refused}")))?;
        let Some(remote) = remote else {
            all.extend(services.iter());
            continue;
        };
        let network = remote.parse::<Network>().ok();
        let network = network.or_else(|| remote.parse::<IpAddr>().ok().map(Network::host));
        let prefix = network.and_then(|n| Prefix::new(n.address(), n.prefix()));
        let remote = prefix.ok_or_else(|| {
            let must = "must name after `from` an address or a network: `tcp/22 from 192.0.2.0/24`";
            (index, must.to_owned())
        })?;
        some.extend(services.iter().map(|(protocol, ports)| HostSource {
            protocol,
            ports,
            remote,
        }));
        if some.iter().map(|source: &HostSource| source.ports.len()).sum::<usize>() > MOST {
            return Err((index, format!("must be {MOST} ports with a remote end at most, in all")));
        }
    }
    Ok((Services::of(all), some))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<(Services, Vec<HostSource>), (usize, String)> {
        parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn ports_of_the_host_may_name_a_remote_end() {
        let (all, some) =
            read(&["tcp/80", "tcp/22 from 192.0.2.9/24", "udp/5-6 from fd00::1"]).unwrap();
        assert_eq!(all.to_texts(), ["tcp/80"]);
        let seen: Vec<_> =
            some.iter().map(|s| (s.protocol.0, s.ports.clone(), s.remote.to_string())).collect();
        let expected = [(6, 22..=22, "192.0.2.0/24".to_owned()), (17, 5..=6, "fd00::1".to_owned())];
        assert_eq!(seen, expected);
        for text in
            ["tcp/22 from here", "tcp/22 from 10.0.0.1/33", "gre from 10.0.0.1", "tcp/22 from"]
        {
            assert_eq!(read(&["tcp/80", text]).unwrap_err().0, 1, "{text}");
        }
        assert!(read(&["tcp/1-5000 from 10.0.0.1"]).is_err());
    }
}
