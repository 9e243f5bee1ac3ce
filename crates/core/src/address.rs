//! Which addresses a delivery may connect to: public ones, and what the operator allows besides.
//!
//! The check looks through every way to write an IPv4 address inside an IPv6 one, because an
//! attacker chooses the DNS answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Public addresses only, except for the networks the operator allows, and without those that the
/// operator denies.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    /// Empty is any.
    ports: Vec<u16>,
    /// Prefixes of this network's own translators from IPv6 to IPv4 (RFC 6052), of 96 bits.
    nat64: Vec<Ipv6Net>,
}

/// Bits of an IPv6 address that are one customer's network; within it, addresses are free.
pub const CUSTOMER_BITS: u8 = 64;

/// An address as a number: of IPv6, that of its network of so many bits.
///
/// # Panics
/// With no bits, or more than 128.
pub fn network(address: IpAddr, bits: u8) -> u128 {
    match address.to_canonical() {
        // As IPv6, so that no address of the one is a network of the other.
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() >> (128 - bits) << (128 - bits),
    }
}

/// Deliveries may not go to the port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the port {port} may not receive webhooks here; those that may are {}", .allowed.iter().map(u16::to_string).collect::<Vec<_>>().join(", "))]
pub struct PortForbidden {
    pub port: u16,
    pub allowed: Vec<u16>,
}

/// The address is not one that deliveries may reach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the address {address} is {why}; only public addresses may receive webhooks")]
pub struct AddressForbidden {
    pub address: IpAddr,
    pub why: &'static str,
}

// IANA special-purpose registries for IPv4 and IPv6 (RFC 6890 and its updates), October 2026.
const FORBIDDEN_V4: &[(&str, &str)] = &[
    ("0.0.0.0/8", "unspecified (this network)"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier's NAT"),
    ("127.0.0.0/8", "loopback"),
    // Public by every registry, and what a virtual machine there asks for its own configuration.
    ("168.63.129.16/32", "the platform's own (Azure)"),
    ("169.254.0.0/16", "link-local (cloud metadata lives there)"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved for protocols"),
    ("192.0.2.0/24", "for documentation"),
    ("192.88.99.0/24", "reserved (6to4 relay)"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved or broadcast"),
];

// Inside 2000::/3; everything outside of it is refused as a whole.
const FORBIDDEN_V6: &[(&str, &str)] = &[
    ("2001::/23", "reserved for protocols (Teredo among them)"),
    ("2001:db8::/32", "for documentation"),
    ("3fff::/20", "for documentation"),
];

impl AddressPolicy {
    /// `allow` are networks that may be reached although they are not public.
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self {
            allow,
            ..Self::default()
        }
    }

    /// Networks that may not be reached, though they are public or allowed.
    #[must_use]
    pub fn denying(self, deny: Vec<IpNet>) -> Self {
        Self { deny, ..self }
    }

    /// The only ports that may be reached; none is any.
    #[must_use]
    pub fn with_ports(self, ports: Vec<u16>) -> Self {
        Self { ports, ..self }
    }

    /// Prefixes of 96 bits behind which IPv4 addresses are: they are judged as what they lead to.
    #[must_use]
    pub fn with_nat64(self, nat64: Vec<Ipv6Net>) -> Self {
        Self { nat64, ..self }
    }

    /// # Errors
    /// When the operator does not allow the port; nobody can reach port 0.
    pub fn check_port(&self, port: u16) -> Result<(), PortForbidden> {
        if port != 0 && (self.ports.is_empty() || self.ports.contains(&port)) {
            return Ok(());
        }
        let allowed = self.ports.clone();
        Err(PortForbidden { port, allowed })
    }

    /// # Errors
    /// When the address is neither public nor allowed.
    pub fn check(&self, address: IpAddr) -> Result<(), AddressForbidden> {
        let leads_to = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => self.embedded_v4(v6),
        };
        let denied = |address: IpAddr| self.deny.iter().any(|net| net.contains(&address));
        // Before what is allowed, and in both spellings: who may not be reached is not reached by a
        // translator.
        if denied(address) || leads_to.is_some_and(|v4| denied(IpAddr::V4(v4))) {
            let why = "denied by this server's operator";
            return Err(AddressForbidden { address, why });
        }
        if self.allow.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        let why = match address {
            IpAddr::V4(v4) => forbidden_v4(v4),
            IpAddr::V6(v6) => match leads_to {
                // An embedded address is judged as what it leads to, the allow list included.
                Some(v4) if self.allow.iter().any(|net| net.contains(&IpAddr::V4(v4))) => None,
                Some(v4) => forbidden_v4(v4),
                None => forbidden_v6(v6),
            },
        };
        why.map_or(Ok(()), |why| Err(AddressForbidden { address, why }))
    }

    fn embedded_v4(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        if self.nat64.iter().any(|prefix| prefix.contains(&address)) {
            // Behind a prefix of 96 bits the address is the last four bytes (RFC 6052 2.2).
            let [.., a, b, c, d] = address.octets();
            return Some(Ipv4Addr::new(a, b, c, d));
        }
        embedded_v4(address)
    }

    /// Whether the name `localhost` may be used: only where loopback is allowed.
    pub fn allows_loopback(&self) -> bool {
        self.check(IpAddr::V4(Ipv4Addr::LOCALHOST)).is_ok()
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    FORBIDDEN_V4
        .iter()
        .find(|(net, _)| {
            net.parse::<Ipv4Net>()
                .is_ok_and(|net| net.contains(&address))
        })
        .map(|(_, why)| *why)
}

fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_loopback() {
        return Some("loopback");
    }
    if address.is_unspecified() {
        return Some("unspecified");
    }
    match address.segments()[0] {
        // 2000::/3, the only block of global unicast addresses so far.
        first if first & 0xe000 == 0x2000 => {}
        first if first & 0xfe00 == 0xfc00 => return Some("private (unique local)"),
        first if first & 0xffc0 == 0xfe80 => return Some("link-local"),
        first if first & 0xff00 == 0xff00 => return Some("multicast"),
        _ => return Some("not global unicast"),
    }
    FORBIDDEN_V6
        .iter()
        .find(|(net, _)| {
            net.parse::<Ipv6Net>()
                .is_ok_and(|net| net.contains(&address))
        })
        .map(|(_, why)| *why)
}

/// The IPv4 address that a mapped, compatible, NAT64 or 6to4 address leads to.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(v4(high, low)),
        // ::a.b.c.d, deprecated, but :: and ::1 are not of it.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(v4(high, low)),
        // The well-known prefix of translators (RFC 6052 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        // 6to4 (RFC 3056 2): a relay takes the packet to the IPv4 address inside.
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// A network of mapped addresses (`::ffff:192.0.2.0/120`) as the network of IPv4 that it means: an address over IPv4 is never
/// in the other.
pub fn as_v4(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = network else {
        return network;
    };
    let bits = v6.prefix_len().checked_sub(MAPPED_BITS);
    match (v6.addr().to_ipv4_mapped(), bits) {
        (Some(v4), Some(bits)) => Ipv4Net::new(v4, bits).map_or(network, IpNet::V4),
        _ => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_network_is_the_one_that_it_means() {
        for (given, means) in [
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.7/128", "192.0.2.7/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            let given = given.parse().unwrap();
            assert_eq!(as_v4(given).to_string(), means);
        }
    }

    #[test]
    fn only_public_addresses_pass() {
        let policy = AddressPolicy::default();
        for forbidden in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.1",
            "198.18.0.1",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
        ] {
            assert!(
                policy.check(forbidden.parse().unwrap()).is_err(),
                "{forbidden}"
            );
        }
        for public in [
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ] {
            assert!(policy.check(public.parse().unwrap()).is_ok(), "{public}");
        }
    }

    #[test]
    fn the_operator_may_allow_networks() {
        let policy = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
        assert!(policy.allows_loopback());
        assert!(policy.check("::ffff:127.0.0.1".parse().unwrap()).is_ok());
        assert!(policy.check("10.0.0.1".parse().unwrap()).is_err());
        assert!(!AddressPolicy::default().allows_loopback());
    }

    #[test]
    fn the_operator_may_deny_networks_and_ports_and_name_translators() {
        let policy = AddressPolicy::new(vec!["10.0.0.0/8".parse().unwrap()])
            .denying(vec![
                "10.1.0.0/16".parse().unwrap(),
                "1.1.1.0/24".parse().unwrap(),
            ])
            .with_ports(vec![443])
            .with_nat64(vec!["2606:4700:64::/96".parse().unwrap()]);
        let check = |text: &str| policy.check(text.parse().unwrap());
        assert!(check("10.0.0.1").is_ok() && check("1.0.0.1").is_ok());
        for denied in [
            "10.1.0.1",
            "1.1.1.1",
            "::ffff:1.1.1.1",
            "2606:4700:64::1.1.1.1",
        ] {
            assert!(check(denied).is_err(), "{denied}");
        }
        assert!(
            check("2606:4700:64::127.0.0.1").is_err(),
            "it leads to loopback"
        );
        assert!(check("2606:4700:64::1.0.0.1").is_ok());
        assert!(policy.check_port(443).is_ok() && policy.check_port(80).is_err());
        assert!(AddressPolicy::default().check_port(0).is_err());
    }
}
