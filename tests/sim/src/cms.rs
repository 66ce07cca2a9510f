//! The network of a stock CMS on an rVM (figures 3 and 4 of the Inception paper): a Linux bridge `br1` that joins the
//! private door `eth1` and the iVMs, and for floating IPs stateless DNAT and SNAT between `br1` and the public door
//! `eth2`, with every packet from a floating IP routed to one next hop. The CMS does not know about the switch behind
//! the doors.

use std::collections::BTreeMap;
use std::net::IpAddr;

use engine::wire::mac::MacAddr;

use crate::node::{Ctx, Wire};
use crate::packet;

/// Interface number of the private door.
pub const ETH1: usize = 0;
/// Interface number of the public door.
pub const ETH2: usize = 1;
/// Interface number of the first iVM.
pub const FIRST_IVM: usize = 2;

/// The configuration of a CMS.
#[derive(Clone, Debug)]
pub struct CmsSpec {
    /// A name for messages.
    pub name: String,
    /// The MAC address of `br1`.
    pub br1_mac: MacAddr,
    /// Addresses of `br1`, which iVMs use as their gateway.
    pub br1_ips: Vec<IpAddr>,
    /// The MAC address of the public door, which the CMS sees as `eth2`.
    pub eth2_mac: MacAddr,
    /// Addresses of `eth2`, without the floating IPs.
    pub eth2_ips: Vec<IpAddr>,
    /// Next hops of packets from floating IPs.
    pub next_hops: Vec<IpAddr>,
    /// Pairs of a floating IP and the iVM's own address.
    pub floating: Vec<(IpAddr, IpAddr)>,
    /// Rules of `ebtables -A FORWARD -p IPv4 --ip-src ADDRESS -j DROP`, and the same with `--ip-dst`.
    pub filtered: Vec<IpAddr>,
}

/// A CMS as a node of the world.
#[derive(Clone, Debug)]
pub struct Cms {
    /// The configuration, which may change while the CMS runs.
    pub spec: CmsSpec,
    fdb: BTreeMap<MacAddr, usize>,
    neighbors: BTreeMap<(bool, IpAddr), MacAddr>,
    waiting: BTreeMap<(bool, IpAddr), Vec<Vec<u8>>>,
    /// Packets translated in and out.
    pub translated: (u64, u64),
    /// Frames that the filter dropped.
    pub filtered: u64,
    /// Frames seen at each door, when recording is on.
    pub heard: Option<Vec<(u64, usize, Vec<u8>)>>,
    /// Number of interfaces.
    pub interfaces: usize,
}

impl Cms {
    /// A CMS with two doors and no iVM yet.
    #[must_use]
    pub const fn new(spec: CmsSpec) -> Self {
        Self {
            spec,
            fdb: BTreeMap::new(),
            neighbors: BTreeMap::new(),
            waiting: BTreeMap::new(),
            translated: (0, 0),
            filtered: 0,
            heard: None,
            interfaces: FIRST_IVM,
        }
    }

    /// Takes a frame from `interface`.
    pub fn receive(&mut self, interface: usize, frame: Wire, ctx: &mut Ctx<'_>) {
        if let Some(heard) = &mut self.heard
            && interface < FIRST_IVM
        {
            heard.push((ctx.now_ns, interface, frame.bytes.clone()));
        }
        if interface == ETH2 {
            self.local(true, frame, ctx);
        } else {
            self.bridge(interface, frame, ctx);
        }
    }

    fn bridge(&mut self, from: usize, frame: Wire, ctx: &mut Ctx<'_>) {
        let Some(p) = packet::parse(&frame.bytes) else { return };
        if p.src.is_unicast() {
            self.fdb.insert(p.src, from);
        }
        if p.dst == self.spec.br1_mac {
            self.local(false, frame, ctx);
            return;
        }
        if p.dst.is_link_local_group() {
            return;
        }
        if p.dst.is_multicast() {
            self.local(false, frame.clone(), ctx);
        }
        if p.ip.is_some_and(|ip| self.spec.filtered.iter().any(|f| [ip.src, ip.dst].contains(f))) {
            self.filtered += 1;
            return;
        }
        self.out_br1(from, frame, ctx);
    }

    fn out_br1(&self, from: usize, mut frame: Wire, ctx: &mut Ctx<'_>) {
        let dst = MacAddr(frame.bytes[..6].try_into().expect("six bytes"));
        frame.hops += 1;
        if let Some(&to) = self.fdb.get(&dst) {
            if to != from {
                ctx.send(to, frame);
            }
            return;
        }
        for to in (0..self.interfaces).filter(|&i| i != ETH2 && i != from) {
            ctx.send(to, frame.clone());
        }
    }

    fn mac(&self, public: bool) -> MacAddr {
        if public { self.spec.eth2_mac } else { self.spec.br1_mac }
    }

    fn owns(&self, public: bool, ip: IpAddr) -> bool {
        if public {
            self.spec.eth2_ips.contains(&ip) || self.spec.floating.iter().any(|f| f.0 == ip)
        } else {
            self.spec.br1_ips.contains(&ip)
        }
    }

    fn emit(&self, public: bool, frame: Wire, ctx: &mut Ctx<'_>) {
        if public { ctx.send(ETH2, frame) } else { self.out_br1(usize::MAX, frame, ctx) }
    }

    /// The rVM's own stack, on `eth2` (public) or `br1`.
    fn local(&mut self, public: bool, frame: Wire, ctx: &mut Ctx<'_>) {
        let Some(p) = packet::parse(&frame.bytes) else { return };
        if !p.tags.is_empty() || (p.dst != self.mac(public) && !p.dst.is_multicast()) {
            return;
        }
        let f = &frame.bytes;
        if p.ethertype == packet::ETH_ARP && f.len() >= p.l3 + 28 {
            let b = &f[p.l3..];
            let mac = MacAddr(b[8..14].try_into().expect("six"));
            let sender = IpAddr::from(<[u8; 4]>::try_from(&b[14..18]).expect("four"));
            let target = IpAddr::from(<[u8; 4]>::try_from(&b[24..28]).expect("four"));
            if self.owns(public, target) {
                self.learn(public, sender, mac, ctx);
                if b[7] == 1 {
                    let reply = packet::arp_reply(self.mac(public), target, mac, sender);
                    self.emit(public, Wire::new(reply), ctx);
                }
            }
            return;
        }
        let Some(ip) = p.ip else { return };
        if p.dst == self.mac(public) && !self.owns(public, ip.dst) || public && self.is_floating(ip.dst) {
            self.route(public, frame, ctx);
        } else if self.owns(public, ip.dst) && ip.proto == packet::ICMP && f.get(ip.l4) == Some(&8) {
            let data = &f[ip.l4 + 8..ip.end];
            let (ident, seq) = (
                u16::from_be_bytes([f[ip.l4 + 4], f[ip.l4 + 5]]),
                u16::from_be_bytes([f[ip.l4 + 6], f[ip.l4 + 7]]),
            );
            let answer = packet::echo(ip.dst, ip.src, true, ident, seq, data);
            let reply = packet::eth_ip(p.src, self.mac(public), &answer);
            self.emit(public, Wire::new(reply), ctx);
        }
    }

    fn is_floating(&self, ip: IpAddr) -> bool {
        self.spec.floating.iter().any(|f| f.0 == ip)
    }

    fn route(&mut self, from_public: bool, mut frame: Wire, ctx: &mut Ctx<'_>) {
        let Some(ip) = packet::parse(&frame.bytes).and_then(|p| p.ip) else { return };
        if !packet::take_hop(&mut frame.bytes, 14) {
            return;
        }
        frame.hops += 1;
        if from_public {
            let Some(&(_, inside)) = self.spec.floating.iter().find(|f| f.0 == ip.dst) else { return };
            packet::rewrite_address(&mut frame.bytes, 14, true, inside);
            self.translated.0 += 1;
            self.send_by(false, inside, frame, ctx);
        } else {
            let Some(&(public, _)) = self.spec.floating.iter().find(|f| f.1 == ip.src) else { return };
            packet::rewrite_address(&mut frame.bytes, 14, false, public);
            self.translated.1 += 1;
            let Some(&hop) = self.spec.next_hops.iter().find(|h| h.is_ipv4() == public.is_ipv4()) else {
                return;
            };
            self.send_by(true, hop, frame, ctx);
        }
    }

    fn send_by(&mut self, public: bool, hop: IpAddr, mut frame: Wire, ctx: &mut Ctx<'_>) {
        let own = self.mac(public);
        if let Some(&mac) = self.neighbors.get(&(public, hop)) {
            frame.bytes[..6].copy_from_slice(&mac.0);
            frame.bytes[6..12].copy_from_slice(&own.0);
            self.emit(public, frame, ctx);
            return;
        }
        let waiting = self.waiting.entry((public, hop)).or_default();
        if waiting.len() < 64 {
            waiting.push(frame.bytes);
        }
        let from = if public { &self.spec.eth2_ips } else { &self.spec.br1_ips };
        if let (Some(&own_ip), true) = (from.iter().find(|i| i.is_ipv4()), hop.is_ipv4()) {
            self.emit(public, Wire::new(packet::arp_request(own, own_ip, hop)), ctx);
        }
    }

    fn learn(&mut self, public: bool, ip: IpAddr, mac: MacAddr, ctx: &mut Ctx<'_>) {
        self.neighbors.insert((public, ip), mac);
        for bytes in self.waiting.remove(&(public, ip)).unwrap_or_default() {
            self.send_by(public, ip, Wire::new(bytes), ctx);
        }
    }
}
