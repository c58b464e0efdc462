//! Which addresses are of the internet, by IANA's registries of special-purpose addresses. Pure.
//!
//! What must hold: no form of writing an address gets another answer: an IPv4 address inside an IPv6 one (mapped, NAT64,
//! 6to4) is judged as itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// Of a machine, a link or an organisation, for documents or for nobody.
const LOCAL_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    // Multicast, reserved and broadcast.
    v4(224, 0, 0, 0, 3),
    // Public by its form: what a virtual machine on Azure asks about itself.
    v4(168, 63, 129, 16, 32),
];

/// All that is given out to be routed; the rest of IPv6 is local, multicast, reserved or translated.
const GIVEN_OUT: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Exceptions to that: protocols of IETF (Teredo among them) and documents.
const LOCAL_V6: [Ipv6Net; 3] = [v6(0x2001, 0, 0, 23), v6(0x2001, 0xdb8, 0, 32), v6(0x3fff, 0, 0, 20)];

const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 16);

/// Whether an address is one of the internet: not of this machine, a link, a private network or a cloud's own services.
pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !LOCAL_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => match inner(address) {
            Some(inner) => is_global(inner.into()),
            None => GIVEN_OUT.contains(&address) && !LOCAL_V6.iter().any(|net| net.contains(&address)),
        },
    }
}

/// The IPv4 address that packets to an IPv6 address end at.
fn inner(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    let four = |at: usize| Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]);
    match address {
        _ if MAPPED.contains(&address) || NAT64.contains(&address) => Some(four(12)),
        _ if SIX_TO_FOUR.contains(&address) => Some(four(2)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const LOCAL: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "169.254.170.2",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2002:c0a8:1::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "fe80::a9fe:a9fe",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ];

    const GLOBAL: &[&str] = &[
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2606:4700:4700::1111",
        "2a00:1450:4001::1",
    ];

    #[test]
    fn addresses_are_told_apart() {
        for (addresses, global) in [(LOCAL, false), (GLOBAL, true)] {
            for address in addresses {
                assert_eq!(is_global(address.parse().unwrap()), global, "{address}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_form_of_an_address_gets_the_same_answer(bits: u32, rest: [u16; 5]) {
            let four = Ipv4Addr::from_bits(bits);
            let [a, b, c, d] = four.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let global = is_global(four.into());
            let six = [
                four.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, rest[0], rest[1], rest[2], rest[3], rest[4]),
            ];
            for six in six {
                prop_assert_eq!(is_global(six.into()), global, "{}", six);
            }
            // No longer said to be the IPv4 address, so it is not of the internet at all.
            prop_assert!(!is_global(four.to_ipv6_compatible().into()));
        }

        #[test]
        fn what_std_calls_local_is(bits: u32, wide: u128) {
            let four = Ipv4Addr::from_bits(bits);
            let local = four.is_private() || four.is_loopback() || four.is_link_local() || four.is_unspecified()
                || four.is_multicast() || four.is_broadcast() || four.is_documentation();
            prop_assert!(!(local && is_global(four.into())), "{}", four);
            let six = Ipv6Addr::from_bits(wide);
            let local = six.is_loopback() || six.is_unspecified() || six.is_multicast() || six.is_unique_local()
                || six.is_unicast_link_local();
            prop_assert!(!(local && is_global(six.into())), "{}", six);
        }
    }
}
