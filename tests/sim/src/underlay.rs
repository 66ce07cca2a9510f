//! The reality cloud: sites (data centres of providers) joined by an Internet with hosts on it.
//!
//! It gives an rVM the least common denominator of the Inception paper and no more: one NIC with a pre-assigned
//! private address, optional public addresses by 1:1 NAT, TCP, UDP and ICMP unicast only, and no source address but
//! the NIC's own. Packets that a provider would silently drop are counted; packets that the switch must never send
//! (I-16, I-17) are problems, which fail the world.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use engine::command::{IpPrefix, UnderlayRoute, UnderlayRoutes};
use engine::wire::mac::MacAddr;

use crate::node::{Ctx, Wire};
use crate::packet;

/// A data centre.
#[derive(Clone, Debug)]
pub struct Site {
    /// A name for messages.
    pub name: String,
    /// Private prefixes, at most one per family. Those of two sites may overlap, as real ones do.
    pub prefixes: Vec<IpPrefix>,
    /// The router's addresses, one per prefix.
    pub routers: Vec<IpAddr>,
    /// The router's MAC address.
    pub router_mac: MacAddr,
    /// NICs reach one another directly (one L2 domain) rather than through the router (L3).
    pub flat: bool,
    /// Delay to the Internet, one way, in nanoseconds.
    pub wan_ns: u64,
    /// Largest IP packet between sites; 0: no limit.
    pub wan_mtu: usize,
}

/// A NIC in a site, or an Internet host.
#[derive(Clone, Debug)]
pub struct Nic {
    /// The site of the NIC; `None`: on the Internet.
    pub site: Option<usize>,
    /// The MAC address.
    pub mac: MacAddr,
    /// The NIC's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Provider NAT: (own address, public address).
    pub public: Vec<(IpAddr, IpAddr)>,
    /// Largest IP packet.
    pub mtu: usize,
}

/// Why the cloud dropped a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CloudDrop {
    /// Not TCP, UDP or ICMP (above all GRE, I-46).
    Protocol,
    /// The destination does not exist.
    NoRoute,
    /// The packet has to leave the site, but its sender has no public address.
    NoPublic,
    /// Larger than the path's MTU.
    Mtu,
    /// Stopped by a fault.
    Partition,
    /// The hop limit is used up.
    Ttl,
    /// An Internet host sent from an address that is not its own.
    Foreign,
}

/// The cloud as a node of the world.
#[derive(Clone, Debug, Default)]
pub struct Cloud {
    /// Data centres.
    pub sites: Vec<Site>,
    /// The NICs that are plugged in, by interface number.
    pub nics: Vec<Nic>,
    /// Pairs of NICs that cannot reach one another.
    pub cut: BTreeSet<(usize, usize)>,
    /// Packets dropped.
    pub drops: BTreeMap<CloudDrop, u64>,
    /// Packets carried.
    pub carried: u64,
}

impl Cloud {
    /// Adds a data centre.
    ///
    /// # Panics
    /// When a prefix leaves no room for a router.
    pub fn add_site(&mut self, name: &str, prefixes: &[&str], flat: bool) -> usize {
        let prefixes: Vec<IpPrefix> = prefixes.iter().map(|p| crate::guest::prefix(p)).collect();
        let routers = prefixes
            .iter()
            .map(|p| match p.addr {
                IpAddr::V4(a) => IpAddr::from((a.to_bits() + 1).to_be_bytes()),
                IpAddr::V6(a) => IpAddr::from((a.to_bits() + 1).to_be_bytes()),
            })
            .collect();
        let n = self.sites.len();
        self.sites.push(Site {
            name: name.into(),
            prefixes,
            routers,
            router_mac: MacAddr([0x06, 0xfe, 0, 0, 0, n as u8]),
            flat,
            wan_ns: 1_000_000,
            wan_mtu: 0,
        });
        n
    }

    fn drop_packet(&mut self, why: CloudDrop) {
        *self.drops.entry(why).or_default() += 1;
    }

    /// Packets dropped for `why`.
    #[must_use]
    pub fn dropped(&self, why: CloudDrop) -> u64 {
        self.drops.get(&why).copied().unwrap_or(0)
    }

    /// The answer that a NIC's kernel would get by ARP or ND.
    #[must_use]
    pub fn neighbor(&self, nic: usize, ip: IpAddr) -> Option<MacAddr> {
        let own = &self.nics[nic];
        let site = &self.sites[own.site?];
        if site.routers.contains(&ip) {
            return Some(site.router_mac);
        }
        let mut there = self.nics.iter().filter(|n| n.site == own.site && n.addresses.contains(&ip));
        site.flat.then(|| there.next().map(|n| n.mac)).flatten()
    }

    /// The routes that a NIC's kernel got by DHCP.
    #[must_use]
    pub fn routes(&self, nic: usize) -> UnderlayRoutes {
        let Some(site) = self.nics[nic].site.map(|s| &self.sites[s]) else {
            return UnderlayRoutes::default();
        };
        let mut routes = Vec::new();
        for (prefix, &router) in site.prefixes.iter().zip(&site.routers) {
            let on_link = if site.flat { *prefix } else { IpPrefix::host(router) };
            routes.push(UnderlayRoute::new(on_link, None));
            let any: IpAddr = if router.is_ipv4() { [0; 4].into() } else { [0u8; 16].into() };
            routes.push(UnderlayRoute::new(IpPrefix { addr: any, len: 0 }, Some(router)));
        }
        routes.into()
    }

    /// The addresses of a NIC, as its kernel has them.
    #[must_use]
    pub fn prefixes(&self, nic: usize) -> Vec<IpPrefix> {
        let own = &self.nics[nic];
        let Some(site) = own.site.map(|s| &self.sites[s]) else { return Vec::new() };
        own.addresses
            .iter()
            .map(|&addr| {
                let len =
                    site.prefixes.iter().find(|p| p.addr.is_ipv4() == addr.is_ipv4()).map_or(0, |p| p.len);
                IpPrefix { addr, len }
            })
            .collect()
    }

    /// Takes a frame from a NIC.
    pub fn receive(&mut self, nic: usize, mut frame: Wire, ctx: &mut Ctx<'_>) {
        let own = self.nics[nic].clone();
        let Some(p) = packet::parse(&frame.bytes) else { return };
        let Some(site) = own.site else {
            self.take_internet(nic, &own, frame, ctx);
            return;
        };
        let mut problem = |what: String| ctx.problems.push(format!("underlay: NIC {nic} sent {what}"));
        let Some(ip) = p.ip.filter(|_| p.tags.is_empty()) else {
            problem(format!("what is not an IP packet (EtherType {:#06x})", p.ethertype));
            return;
        };
        if p.src != own.mac {
            problem(format!("from MAC {}, which is not its own", p.src));
            return;
        }
        if p.dst.is_multicast()
            || ip.dst.is_multicast()
            || matches!(ip.dst, IpAddr::V4(d) if d.is_broadcast())
        {
            problem(format!("to {} ({}), which is not unicast (I-16)", p.dst, ip.dst));
            return;
        }
        if !own.addresses.contains(&ip.src) {
            problem(format!("from {}, which is not its address (I-17)", ip.src));
            return;
        }
        if ip.len > own.mtu {
            problem(format!("a packet of {} bytes over its MTU of {}", ip.len, own.mtu));
            return;
        }
        if !matches!(ip.proto, packet::TCP | packet::UDP | packet::ICMP | packet::ICMPV6) {
            self.drop_packet(CloudDrop::Protocol);
            return;
        }
        // Within the site.
        let local = |n: &Nic| n.site == Some(site) && n.addresses.contains(&ip.dst);
        let routed = p.dst == self.sites[site].router_mac;
        if let Some(to) = self.nics.iter().position(|n| local(n) && (routed || n.mac == p.dst)) {
            self.deliver(nic, to, routed, frame, ctx);
            return;
        }
        if !routed {
            self.drop_packet(CloudDrop::NoRoute);
            return;
        }
        // Out: the provider's NAT.
        let Some(&(_, public)) = own.public.iter().find(|m| m.0 == ip.src) else {
            self.drop_packet(CloudDrop::NoPublic);
            return;
        };
        packet::rewrite_address(&mut frame.bytes, 14, false, public);
        self.carry_public(nic, ip.dst, frame, ctx);
    }

    fn take_internet(&mut self, nic: usize, own: &Nic, frame: Wire, ctx: &mut Ctx<'_>) {
        let Some(p) = packet::parse(&frame.bytes) else { return };
        let f = &frame.bytes;
        let router = MacAddr([0x06, 0xfe, 0xff, 0, 0, 0]);
        if p.ethertype == packet::ETH_ARP && f.len() >= p.l3 + 28 && f[p.l3 + 7] == 1 {
            let at = |i: usize| IpAddr::from(<[u8; 4]>::try_from(&f[p.l3 + i..p.l3 + i + 4]).expect("four"));
            if !own.addresses.contains(&at(24)) {
                ctx.send(nic, Wire::new(packet::arp_reply(router, at(24), p.src, at(14))));
            }
            return;
        }
        let Some(ip) = p.ip else { return };
        if ip.proto == packet::ICMPV6 && f.get(ip.l4) == Some(&135) && f.len() >= ip.l4 + 24 {
            let target: [u8; 16] = f[ip.l4 + 8..ip.l4 + 24].try_into().expect("sixteen");
            let mut body = target.to_vec();
            body.extend([2, 1]);
            body.extend(router.0);
            let from = IpAddr::from(target);
            let advert = packet::icmpv6(from, ip.src, 136, 0, [0xe0, 0, 0, 0], &body);
            let mut reply = packet::ip(from, ip.src, packet::ICMPV6, &advert);
            reply[7] = 255;
            ctx.send(nic, Wire::new(packet::eth_ip(p.src, router, &reply)));
            return;
        }
        if !own.addresses.contains(&ip.src) || ip.dst.is_multicast() {
            self.drop_packet(CloudDrop::Foreign);
            return;
        }
        self.carry_public(nic, ip.dst, frame, ctx);
    }

    /// A packet with public addresses on both sides.
    fn carry_public(&mut self, from: usize, dst: IpAddr, mut frame: Wire, ctx: &mut Ctx<'_>) {
        for to in 0..self.nics.len() {
            let n = &self.nics[to];
            if n.site.is_none() && n.addresses.contains(&dst) {
                self.deliver(from, to, true, frame, ctx);
                return;
            }
            if let Some(&(private, _)) = n.public.iter().find(|m| m.1 == dst) {
                packet::rewrite_address(&mut frame.bytes, 14, true, private);
                self.deliver(from, to, true, frame, ctx);
                return;
            }
        }
        self.drop_packet(CloudDrop::NoRoute);
    }

    fn deliver(&mut self, from: usize, to: usize, routed: bool, mut frame: Wire, ctx: &mut Ctx<'_>) {
        if self.cut.contains(&(from.min(to), from.max(to))) {
            self.drop_packet(CloudDrop::Partition);
            return;
        }
        let (a, b) = (self.nics[from].site, self.nics[to].site);
        let mut delay = 0;
        if a != b {
            let len = packet::parse_ip(&frame.bytes, 14).map_or(0, |ip| ip.len);
            for site in [a, b].into_iter().flatten() {
                let site = &self.sites[site];
                delay += site.wan_ns;
                if site.wan_mtu != 0 && len > site.wan_mtu {
                    self.drop_packet(CloudDrop::Mtu);
                    return;
                }
            }
        }
        if routed {
            if !packet::take_hop(&mut frame.bytes, 14) {
                self.drop_packet(CloudDrop::Ttl);
                return;
            }
            let router = b.map_or(MacAddr([0x06, 0xfe, 0xff, 0, 0, 0]), |s| self.sites[s].router_mac);
            let mac = self.nics[to].mac;
            frame.bytes[..6].copy_from_slice(&mac.0);
            frame.bytes[6..12].copy_from_slice(&router.0);
        }
        frame.hops += 1;
        self.carried += 1;
        ctx.out.push((to, delay, frame));
    }
}
