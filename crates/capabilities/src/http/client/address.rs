//! Which addresses guests may reach: those of the public network, and what the operator says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use ipnet::IpNet;

/// What is reached and what is not.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Though they are private, or this machine's own.
    pub allow: Vec<IpNet>,
    /// Whatever else holds.
    pub deny: Vec<IpNet>,
}

impl Reach {
    /// Whether guests may reach this address.
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if let IpAddr::V6(carrier) = address
            && let Some(carried) = carried(carrier)
            && !self.permits(carried.into())
        {
            return false;
        }
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        if is_in(&self.deny) {
            return false;
        }
        is_in(&self.allow) || (is_global(address) && !is_ours(address))
    }
}

/// Whether the address is one of this machine's own. No packet leaves for the answer: the kernel would send to an own
/// address from that address.
fn is_ours(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Who cannot ask does not know.
    let Ok(socket) = UdpSocket::bind((any, 0)) else {
        return true;
    };
    let local = socket
        .connect((address, 9))
        .and_then(|()| socket.local_addr());
    // What has no way there is not connected either.
    local.is_ok_and(|local| local.ip().to_canonical() == address)
}

/// The address that another stands for on the way: NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d))
}

/// Whether an address is one of the public network (IANA's registries of special-purpose addresses). One that carries
/// another within it is what that one is.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => is_global_v6(address),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., _, _)
            // Shared between a provider and its customers (RFC 6598), which metadata services use too.
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    if let Some(carried) = address.to_ipv4_mapped().or(carried(address)) {
        return is_global_v4(carried);
    }
    match address.segments() {
        // ::/96 with :: and ::1 in it, which is deprecated.
        [0, 0, 0, 0, 0, 0, ..] => false,
        // NAT64 within a network (RFC 8215).
        [0x64, 0xff9b, 1, ..] => false,
        [0x100, 0, 0, 0 | 1, ..] => false,
        // 2001::/23, Teredo in it, and documentation.
        [0x2001, ..=0x1ff | 0xdb8, ..] => false,
        // Documentation, and segment routing.
        [0x3fff, ..=0x0fff, ..] | [0x5f00, ..] => false,
        // Of today's addresses only 2000::/3 are for everyone: unique local, link local, site local and multicast are not.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bounds of each range that is not global, one address beyond each that is.
    const EDGES: &[(&str, bool)] = &[
        ("0.0.0.0", false),
        ("0.255.255.255", false),
        ("1.0.0.0", true),
        ("9.255.255.255", true),
        ("10.0.0.0", false),
        ("10.255.255.255", false),
        ("11.0.0.0", true),
        ("100.63.255.255", true),
        ("100.64.0.0", false),
        ("100.100.100.200", false),
        ("100.127.255.255", false),
        ("100.128.0.0", true),
        ("126.255.255.255", true),
        ("127.0.0.0", false),
        ("127.255.255.255", false),
        ("128.0.0.0", true),
        ("169.253.255.255", true),
        ("169.254.0.0", false),
        ("169.254.169.254", false),
        ("169.255.0.0", true),
        ("172.15.255.255", true),
        ("172.16.0.0", false),
        ("172.31.255.255", false),
        ("172.32.0.0", true),
        ("191.255.255.255", true),
        ("192.0.0.0", false),
        ("192.0.0.255", false),
        ("192.0.1.0", true),
        ("192.0.2.0", false),
        ("192.0.2.255", false),
        ("192.0.3.0", true),
        ("192.88.98.255", true),
        ("192.88.99.0", false),
        ("192.88.100.0", true),
        ("192.167.255.255", true),
        ("192.168.0.0", false),
        ("192.168.255.255", false),
        ("192.169.0.0", true),
        ("198.17.255.255", true),
        ("198.18.0.0", false),
        ("198.19.255.255", false),
        ("198.20.0.0", true),
        ("198.51.99.255", true),
        ("198.51.100.0", false),
        ("198.51.101.0", true),
        ("203.0.112.255", true),
        ("203.0.113.0", false),
        ("203.0.114.0", true),
        ("223.255.255.255", true),
        ("224.0.0.0", false),
        ("239.255.255.255", false),
        ("240.0.0.0", false),
        ("255.255.255.255", false),
        ("8.8.8.8", true),
        ("::", false),
        ("::1", false),
        ("::2", false),
        ("::127.0.0.1", false),
        ("::8.8.8.8", false),
        ("::ffff:127.0.0.1", false),
        ("::ffff:8.8.8.8", true),
        ("::ffff:169.254.169.254", false),
        ("64:ff9b::7f00:1", false),
        ("64:ff9b::808:808", true),
        ("64:ff9b:1::808:808", false),
        ("100::", false),
        ("100::1", false),
        ("2001::1", false),
        ("2001:1ff:ffff::", false),
        ("2001:200::1", true),
        ("2001:db7:ffff::", true),
        ("2001:db8::1", false),
        ("2001:db9::", true),
        ("2001:4860:4860::8888", true),
        ("2002:7f00:1::", false),
        ("2002:a00:1::", false),
        ("2002:808:808::1", true),
        ("2003::1", true),
        ("3ffe:ffff::", true),
        ("3fff::1", false),
        ("3fff:fff:ffff::", false),
        ("3fff:1000::", true),
        ("4000::1", false),
        ("5f00::1", false),
        ("1fff::1", false),
        ("fc00::1", false),
        ("fd00:ec2::254", false),
        ("fe80::1", false),
        ("febf::1", false),
        ("fec0::1", false),
        ("ff02::1", false),
        ("ffff::", false),
    ];

    #[test]
    fn only_addresses_of_the_public_network_are_global() {
        for (text, expected) in EDGES {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(is_global(address), *expected, "{text}");
        }
    }

    /// Another reading of the same registries. It differs where we are stricter on purpose.
    #[test]
    fn nothing_is_global_that_another_implementation_holds_to_be_private() {
        let acl = http_acl::HttpAcl::builder()
            .ip_acl_default(true)
            .non_global_ip_ranges(false)
            .build();
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            seed >> 32
        };
        let mut seen = [0, 0];
        for i in 0..200_000_u64 {
            let (high, low) = (random() as u32, random());
            let address: IpAddr = match i % 2 {
                0 => Ipv4Addr::from(high).into(),
                // Mostly within 2000::/3, where most of the exceptions lie.
                _ => {
                    let first = 0x2000 | (random() as u16 & 0x1fff);
                    let second = random() as u16 & [0xffff, 0x03ff][usize::from(low % 2 == 0)];
                    let rest = low.to_be_bytes();
                    let word = |i: usize| u16::from_be_bytes([rest[i], rest[i + 1]]);
                    Ipv6Addr::new(first, second, word(4), word(6), 0, 0, high as u16, 1).into()
                }
            };
            if !is_global(address) {
                seen[0] += 1;
                continue;
            }
            seen[1] += 1;
            // What carries an IPv4 address within it we judge by that, and it not at all.
            let embeds = matches!(address, IpAddr::V6(v6) if v6.segments()[0] == 0x2002);
            assert!(
                acl.is_ip_allowed(&address).is_allowed() || embeds,
                "{address}"
            );
        }
        assert!(seen.iter().all(|count| *count > 1_000), "{seen:?}");
    }

    #[test]
    fn the_operators_word_comes_first() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let reach = Reach {
            allow: vec![net("10.1.0.0/16"), net("127.0.0.1/32"), net("fd00::/8")],
            deny: vec![net("10.1.2.0/24"), net("8.8.8.8/32")],
        };
        let check = |text: &str, expected: bool| {
            assert_eq!(reach.permits(text.parse().unwrap()), expected, "{text}");
        };
        check("10.1.0.1", true);
        check("::ffff:10.1.0.1", true);
        check("10.1.2.1", false);
        check("::ffff:10.1.2.1", false);
        check("10.2.0.1", false);
        check("127.0.0.1", true);
        check("127.0.0.2", false);
        check("8.8.8.8", false);
        check("64:ff9b::808:808", false);
        check("2002:808:808::1", false);
        check("64:ff9b::808:404", true);
        check("64:ff9b::a01:1", false);
        check("fd00::1", true);
        check("fc00::1", false);
        assert!(!Reach::default().permits("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn an_address_of_this_machine_is_known_without_a_packet() {
        assert!(is_ours("127.0.0.1".parse().unwrap()));
        assert!(!is_ours("192.0.2.77".parse().unwrap()));
    }
}
