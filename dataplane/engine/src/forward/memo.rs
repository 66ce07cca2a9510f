//! The flow cache: verdicts of `classify`, keyed by the first bytes of a flow's packets.
//!
//! Most packets are plain: untagged IPv4, TCP or UDP, whole, without options. In such a packet, all fields
//! that `classify` reads are at fixed offsets and form a key of five words; the verdict takes one or two
//! cache lines. A packet whose key is found is not parsed, admitted or classified again: the switch applies
//! the edits and queues it. Every other packet takes the slow path, and may leave an entry.
//!
//! The flow cache is never a second policy. An entry is composed from a [`Verdict`], and holds only while its
//! basis is unchanged (its stamp: [`Tables::version`] and the versions of both stations). Properties outside
//! the key (length, hop limit, ECN, an unfinished checksum) are checked per packet; a packet that fails the
//! check takes the slow path. `tests/memo` proves it: with and without the flow cache, the same bytes leave
//! by the same ports.

use alloc::boxed::Box;

use zerocopy::FromZeros;

use super::classify::{Admission, From, Probe};
use super::fit;
use super::parse::Headers;
use super::verdict::{Out, Verdict};
use super::{Tables, guard};
use crate::command::{FloatingId, Location, PortId, Role, UplinkConfig, Vni};
use crate::limits::MEMO_ENTRIES;
use crate::table::fdb::{Fdb, FdbKey};
use crate::table::port::{PortEntry, TagEdit};
use crate::tunnel::{ENCAP_LEN, OUTER_V4_LEN, UDP_AT_V4, VXLAN_AT_V4, vxlan};
use crate::wire::checksum::{self, Delta};
use crate::wire::mac::MacAddr;
use crate::wire::{ethernet, ipv4, l4, word};

/// Bytes from the start of a plain packet's frame to the end of its ports and UDP checksum.
pub const PLAIN_LEN: usize = 42;
/// Offset of the flags of a plain TCP packet.
const TCP_FLAGS_AT: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + l4::TCP_FLAGS_AT;

/// The fields of a plain packet that decide its verdict, as they are in the frame: MAC addresses and ingress;
/// IP addresses; ports, protocol and class; outer source and VNI.
pub type Key = [u64; 5];

/// A frame's key, and the offsets that the edits need.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Whether the packet is plain and so has a key.
    pub plain: bool,
    /// Offset of the (inner) Ethernet header.
    pub eth: u8,
    /// Transport protocol.
    pub proto: u8,
    /// Length of the frame from the (inner) Ethernet header on, in bytes.
    pub len: u16,
    /// Whether the entry was found.
    pub found: bool,
    /// Index and tag of the entry, if there is one.
    at: u32,
    tag: u16,
    key: Key,
}

impl Look {
    /// Which of the set's two entries a new flow displaces first.
    #[inline]
    const fn preferred(&self) -> usize {
        (self.tag >> 1) as usize & 1
    }
}

/// The facts that all frames of a batch share.
#[derive(Debug)]
pub struct Side<'a> {
    ingress: u64,
    own: u64,
    /// The virtual gateway's address on the network last seen, and that network.
    router: (u64, u32),
    /// The port permits only bound source addresses, so these belong to the key.
    bound: bool,
    /// Partial checksums arrive without a mark.
    unmarked: bool,
    uplink: Option<(&'a UplinkConfig, [u8; 4])>,
}

/// The table of cached verdicts. Two-way set associative; a lookup never reads another set.
pub struct Memo {
    /// A part of each entry's hash, so that a lookup fetches only the line of the right entry.
    tags: Box<[[u16; 2]; SETS]>,
    entries: Box<[Entry; MEMO_ENTRIES]>,
    rewrites: Box<[Rewrite; MEMO_ENTRIES]>,
    seed: [u64; 5],
    /// Count of new flows. One in [`PATIENCE`] displaces a flow that is still valid.
    newcomers: u32,
}

impl core::fmt::Debug for Memo {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let flows = self.entries.iter().zip(self.rewrites.iter()).enumerate();
        f.debug_map().entries(flows.filter(|(_, (entry, _))| entry.kind != 0)).finish()
    }
}

/// Number of new flows that a full set rejects before it takes one. So flows of a single packet displace few
/// others.
const PATIENCE: u32 = 16;

/// One flow: the fields to compare, and the data that every packet needs.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
pub struct Entry {
    key: Key,
    stamp: u32,
    src_cell: u16,
    dst_cell: u16,
    /// Maximum length of a frame, on ingress and egress.
    max_len: u16,
    /// The output: a port or a peer, depending on `kind`.
    pub out: u16,
    /// Flags: see the constants. 0 means vacant.
    pub kind: u8,
    /// When the sender's FDB entry was last refreshed: low bits of the FDB's tick.
    tick: u8,
    /// The peer that packets come from.
    pub from_peer: u16,
    /// The network for encapsulation.
    vni: u32,
    /// Number of packets since the entry was made.
    pub hits: u32,
}

/// The rest of a flow: data for routed packets only, and for the sender once per tick.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
pub struct Rewrite {
    /// Change of the IP header's checksum by the edits.
    pub ip_delta: Delta,
    /// Change of the transport checksum.
    pub l4_delta: Delta,
    /// The new IP address.
    pub nat: [u8; 4],
    /// The new MAC addresses, destination first.
    pub macs: [u8; 12],
    /// The floating IP mapping whose counters increase.
    pub mapping: u32,
    /// The sender's slot in the FDB.
    fdb_slot: u32,
}

const _: () = assert!(size_of::<Entry>() == 64 && size_of::<Rewrite>() == 64);

/// The entry is in use.
pub const VALID: u8 = 1;
/// Packets go to a peer, otherwise to a port.
pub const TO_PEER: u8 = 2;
/// Packets come from a peer.
pub const FROM_PEER: u8 = 4;
/// Set new MAC addresses and decrement the hop limit.
pub const ROUTE: u8 = 8;
/// Set a new source address.
pub const NAT_SRC: u8 = 16;
/// Set a new destination address.
pub const NAT_DST: u8 = 32;
/// A mapping counts packets as outbound.
pub const COUNT_OUT: u8 = 64;
/// A mapping counts packets as inbound.
pub const COUNT_IN: u8 = 128;

/// Number of sets, of two entries each.
const SETS: usize = MEMO_ENTRIES / 2;
const NO_SLOT: u32 = u32::MAX;
/// Key bit: all fields count, because the packet is routed. Otherwise only the Ethernet header counts.
const ROUTED: u64 = 1 << 40;
const MAC_MASK: u64 = 0x0000_ffff_ffff_ffff;

/// The bytes from the EtherType on, for IPv4 without options, and a mask without the traffic class.
const PLAIN: u32 = u32::from_le_bytes([8, 0, 0x45, 0]);
const PLAIN_MASK: u32 = u32::from_le_bytes([0xff, 0xff, 0xff, 0]);
/// Mask of the fragment bits, from the fragment field on. They are set in a fragment.
const WHOLE_MASK: u32 = ipv4::FRAGMENT_MASK.swap_bytes() as u32;

const fn mac_word(mac: MacAddr) -> u64 {
    let m = mac.0;
    u64::from_le_bytes([m[0], m[1], m[2], m[3], m[4], m[5], 0, 0])
}

#[inline]
fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_le_bytes([
        bytes[at],
        bytes[at + 1],
        bytes[at + 2],
        bytes[at + 3],
        bytes[at + 4],
        bytes[at + 5],
        bytes[at + 6],
        bytes[at + 7],
    ])
}

#[inline]
fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
const fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

impl<'a> Side<'a> {
    /// The facts of a batch from this port. `None` when the flow cache takes none of its frames.
    #[must_use]
    pub fn new(tables: &'a Tables, id: PortId, port: &PortEntry) -> Option<Self> {
        let uplink = match (port.config.role, &tables.uplink) {
            (Role::Uplink, Some(uplink)) if uplink.port == id => match uplink.vtep {
                core::net::IpAddr::V4(vtep) => Some((uplink, vtep.octets())),
                core::net::IpAddr::V6(_) => return None,
            },
            (Role::Uplink, _) => return None,
            _ => None,
        };
        let router =
            port.net.and_then(|net| tables.networks.at(net)).map_or(0, |n| mac_word(n.config.router_mac));
        Some(Self {
            ingress: u64::from(id.0) << 32,
            own: mac_word(tables.switch_mac()),
            router: (router, 0),
            bound: port.config.role == Role::Guest,
            unmarked: port.caps.rx_csum_unmarked,
            uplink,
        })
    }

    /// Reads a frame's key into `look`.
    #[inline]
    pub fn look(&mut self, tables: &Tables, bytes: &[u8], look: &mut Look) {
        look.plain = false;
        let Some((uplink, vtep)) = self.uplink else {
            return self.plain(bytes, 0, 0, false, look);
        };
        let Some(head) = bytes.first_chunk::<{ OUTER_V4_LEN + PLAIN_LEN }>() else {
            return self.reality(bytes, vtep, uplink.tunnel_port, look);
        };
        let tunnel = be16(head, 12) == ethernet::TYPE_IPV4
            && head[14] == 0x45
            && be16(head, 20) & ipv4::FRAGMENT_MASK == 0
            && head[23] == l4::UDP
            && head[30..34] == vtep
            && be16(head, UDP_AT_V4 + 2) == uplink.tunnel_port;
        if !tunnel {
            return self.reality(bytes, vtep, uplink.tunnel_port, look);
        }
        // ECT(1) and CE may change the inner field (RFC 6040 §4.2).
        let total_len = usize::from(be16(head, 16));
        let udp_len = usize::from(be16(head, UDP_AT_V4 + l4::UDP_LEN_AT));
        let vni = vxlan::vni_of_plain(u64_at(head, VXLAN_AT_V4));
        let sound = head[15] & 1 == 0
            && ipv4::HEADER_LEN + udp_len <= total_len
            && ethernet::HEADER_LEN + total_len <= bytes.len()
            && udp_len >= ENCAP_LEN + PLAIN_LEN
            && u64_at(head, 0) & MAC_MASK == mac_word(uplink.mac);
        let (true, Some(vni)) = (sound, vni) else { return };
        if vni != self.router.1 || self.router.0 == 0 {
            let network = Vni::new(vni).and_then(|vni| tables.networks.get(vni));
            let Some(network) = network else { return };
            self.router = (mac_word(network.config.router_mac), vni);
        }
        let source = u64::from(u32_at(head, 26));
        let end = ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp_len;
        self.plain(&bytes[OUTER_V4_LEN..end], source | u64::from(vni) << 32, OUTER_V4_LEN as u8, false, look);
    }

    /// Reads a packet from the underlay that is not for the tunnel.
    fn reality(&mut self, bytes: &[u8], vtep: [u8; 4], tunnel_port: u16, look: &mut Look) {
        let Some(head) = bytes.first_chunk::<PLAIN_LEN>() else { return };
        if head[30..34] == vtep && be16(head, 36) == tunnel_port && head[23] == l4::UDP {
            return;
        }
        self.plain(bytes, u64::MAX, 0, true, look);
    }

    /// Reads the key of a plain packet's frame.
    #[inline(always)]
    fn plain(&self, bytes: &[u8], tunnel: u64, eth: u8, reality: bool, look: &mut Look) {
        let Some(head) = bytes.first_chunk::<PLAIN_LEN>() else { return };
        let len = bytes.len();
        let (kind, middle) = (u32_at(head, 12), u32_at(head, 20));
        let total_len = usize::from(be16(head, 16));
        let proto = (middle >> 24) as u8;
        let l4_min = if proto == l4::UDP { l4::UDP_HEADER_LEN } else { l4::TCP_HEADER_LEN };
        let plain = kind & PLAIN_MASK == PLAIN
            && middle & WHOLE_MASK == 0
            && (proto == l4::UDP || proto == l4::TCP)
            && total_len >= ipv4::HEADER_LEN + l4_min
            && ethernet::HEADER_LEN + total_len <= len
            && len <= usize::from(u16::MAX);
        if !plain {
            return;
        }
        // The slow path clamps the MSS of a new connection.
        if proto == l4::TCP && bytes[TCP_FLAGS_AT] & l4::TCP_SYN != 0 {
            return;
        }
        // A guard reads more of some packets of a guest than the key holds.
        if self.bound && is_judged(head) {
            return;
        }
        let macs = u64_at(head, 0);
        let dst = macs & MAC_MASK;
        let (mut addresses, mut rest) = (u64_at(head, 26), u64::from(u32_at(head, 34)));
        if reality || dst == self.router.0 || dst == self.own {
            if head[22] <= 1 {
                return;
            }
            rest |= u64::from(proto) << 32 | ROUTED;
        } else {
            addresses = if self.bound { addresses & 0xffff_ffff } else { 0 };
            rest = 0;
        }
        if self.unmarked && may_be_partial(head, bytes, total_len) {
            return;
        }
        look.key = [macs, u64::from(u32_at(head, 8)) | self.ingress, addresses, rest, tunnel];
        (look.plain, look.eth, look.proto, look.len) = (true, eth, proto, len as u16);
    }
}

/// Whether a guard reads more of a guest's packet than the key holds.
#[inline(never)]
fn is_judged(head: &[u8; PLAIN_LEN]) -> bool {
    head[23] == l4::UDP && guard::reads_payload(be16(head, 34), be16(head, 36))
}

/// Whether the frame may have an unfinished checksum (see [`fit::unmarked_partial`]): the transport checksum equals the sum of
/// the pseudo-header, or the frame hides one inside a tunnel of the sender's own.
#[inline]
fn may_be_partial(head: &[u8; PLAIN_LEN], bytes: &[u8], total_len: usize) -> bool {
    let addresses: u32 = (26..34).step_by(2).map(|at| u32::from(be16(head, at))).sum();
    let pseudo = checksum::fold(addresses + u32::from(head[23]) + (total_len - ipv4::HEADER_LEN) as u32);
    match head[23] {
        l4::UDP => be16(head, 40) == pseudo || fit::hidden_in_udp(bytes, total_len),
        _ => word(bytes, 50) == pseudo,
    }
}

impl Memo {
    /// Creates an empty flow cache whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let word = |n: u64| seed.wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self {
            tags: FromZeros::new_box_zeroed().expect("memory for remembered verdicts"),
            entries: FromZeros::new_box_zeroed().expect("memory for remembered verdicts"),
            rewrites: FromZeros::new_box_zeroed().expect("memory for remembered verdicts"),
            seed: [word(1), word(2), word(3), word(4), word(5)],
            newcomers: 0,
        }
    }

    /// Finds the index of a key's entry, and prefetches its line.
    #[inline]
    pub fn touch(&self, look: &mut Look) {
        let fold = |a: u64, b: u64| {
            let x = u128::from(a) * u128::from(b);
            x as u64 ^ (x >> 64) as u64
        };
        let ([a, b, c, d, e], k) = (look.key, &self.seed);
        let hash = fold(fold(a ^ k[0], b ^ k[1]) ^ e, fold(c ^ k[2], d ^ k[3]) ^ k[4]);
        look.tag = (hash >> 48) as u16 | 1;
        let set = hash as usize % SETS;
        let way = match self.tags[set] {
            [_, second] if second == look.tag => 1,
            [first, _] if first == look.tag => 0,
            // Not found; `remember` tries this entry first.
            _ => look.preferred(),
        };
        look.at = (set * 2 + way) as u32;
        prefetch::read(&self.entries[set * 2 + way]);
    }

    /// Finds the entry of a key, if its basis is unchanged and the frame is not too long for it.
    #[inline]
    pub fn find(&self, tables: &Tables, look: &mut Look) -> bool {
        let at = look.at as usize % MEMO_ENTRIES;
        let entry = &self.entries[at];
        look.found = entry.is_for(&look.key) && entry.holds(tables) && look.len <= entry.max_len;
        if look.found && entry.is(ROUTE) {
            prefetch::read(&self.rewrites[at]);
        }
        look.found
    }

    /// Returns the entry that [`Memo::find`] found.
    #[inline]
    pub fn entry(&mut self, look: &Look) -> (&mut Entry, &Rewrite) {
        let at = look.at as usize % MEMO_ENTRIES;
        (&mut self.entries[at], &self.rewrites[at])
    }

    /// Caches the verdict about a frame, if possible.
    pub fn remember(
        &mut self,
        tables: &Tables,
        look: &Look,
        adm: &Admission,
        h: &Headers,
        probe: &Probe,
        verdict: &Verdict,
    ) {
        let (here, set) = (look.at as usize % MEMO_ENTRIES, look.at as usize / 2 % SETS);
        let tags = &self.tags[set];
        let way = match tags.iter().position(|&tag| tag == 0) {
            _ if tags[here % 2] == look.tag => here % 2,
            Some(vacant) => vacant,
            // Checks only the line that `touch` has fetched: among a million flows nearly all lookups miss.
            None if !self.entries[here].holds(tables) => here % 2,
            None => {
                self.newcomers = self.newcomers.wrapping_add(1);
                if !self.newcomers.is_multiple_of(PATIENCE) {
                    return;
                }
                (self.newcomers / PATIENCE) as usize & 1
            }
        };
        if let Some((entry, rewrite)) = compose(tables, adm, h, probe, verdict) {
            self.tags[set][way] = look.tag;
            self.entries[set * 2 + way] = Entry { key: look.key, ..entry };
            self.rewrites[set * 2 + way] = rewrite;
        }
    }
}

impl Entry {
    #[inline]
    fn current(&self, tables: &Tables) -> u32 {
        let (src, dst) = (tables.fdb.version(self.src_cell), tables.fdb.version(self.dst_cell));
        tables.version.wrapping_add(src).wrapping_add(dst)
    }

    /// Whether the keys are equal. Compares word by word, which is faster than a call to `memcmp`.
    #[inline]
    fn is_for(&self, key: &Key) -> bool {
        self.key.iter().zip(key).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }

    /// Whether the entry still holds.
    #[inline]
    #[must_use]
    pub fn holds(&self, tables: &Tables) -> bool {
        self.stamp == self.current(tables)
    }

    /// Whether all of `bits` are set.
    #[inline]
    #[must_use]
    pub const fn is(&self, bits: u8) -> bool {
        self.kind & bits != 0
    }

    /// The network for encapsulation.
    #[inline]
    #[must_use]
    pub fn vni(&self) -> Vni {
        Vni::new(self.vni).unwrap_or(const { Vni::new(0).unwrap() })
    }

    /// Refreshes the sender's FDB entry, once per tick of the FDB.
    #[inline]
    pub fn refresh(&mut self, rewrite: &Rewrite, fdb: &mut Fdb, tick: u32) {
        if self.tick != tick as u8 {
            self.tick = tick as u8;
            if rewrite.fdb_slot != NO_SLOT {
                fdb.refresh(rewrite.fdb_slot, tick);
            }
        }
    }
}

/// Composes the entry for a verdict. `None` when the verdict does not apply to every packet with the same
/// key.
fn compose(
    tables: &Tables,
    adm: &Admission,
    h: &Headers,
    probe: &Probe,
    verdict: &Verdict,
) -> Option<(Entry, Rewrite)> {
    let edits = &verdict.edits;
    if edits.tag != TagEdit::Keep || edits.ecn.is_some() || adm.vid != 0 || verdict.vid != 0 {
        return None;
    }
    let (mut entry, mut rewrite) = (Entry::new_zeroed(), Rewrite::new_zeroed());
    entry.kind = VALID;
    let mut room = usize::from(u16::MAX);
    rewrite.fdb_slot = NO_SLOT;
    let here = match adm.from {
        From::Port(id) => {
            room =
                usize::from(tables.ports.get(id)?.config.mtu) + ethernet::HEADER_LEN + 2 * ethernet::TAG_LEN;
            adm.station.then_some(Location::Port(id))
        }
        From::Peer(id, _) => {
            entry.kind |= FROM_PEER;
            entry.from_peer = id.0;
            adm.station.then_some(Location::Peer(id))
        }
        From::Underlay => None,
    };
    if let Some(here) = here {
        // A sender that the FDB could not learn needs the slow path again.
        let (slot, location) = tables.fdb.slot(probe.src.0, probe.src.1)?;
        if location != here {
            return None;
        }
        rewrite.fdb_slot = slot;
    }
    let fits = match verdict.out {
        Out::Port(to) => {
            let port = tables.ports.get(to)?;
            let uplink = port.config.role == Role::Uplink;
            let member = uplink || port.config.vni == Some(verdict.vni);
            if !port.config.live || !member || !uplink && port.vlan.egress(0) != Some(TagEdit::Keep) {
                return None;
            }
            entry.out = to.0;
            usize::from(port.config.mtu)
        }
        Out::Peer(to) => {
            // The outer hop limit of a relayed frame differs from packet to packet.
            if entry.is(FROM_PEER) && edits.route.is_none() {
                return None;
            }
            let direct = tables.peers.get(to)?.direct?;
            let peer = tables.peers.get(direct)?;
            let live = tables.ports.get(tables.uplink.as_ref()?.port)?.config.live;
            if peer.outer.len == 0 || peer.outer.inherits() || peer.next.mac().is_none() || !live {
                return None;
            }
            entry.kind |= TO_PEER;
            entry.out = direct.0;
            entry.vni = verdict.vni.get();
            usize::from(peer.outer.mtu).checked_sub(peer.outer.len)?
        }
        _ => return None,
    };
    entry.max_len = room.min(fits + ethernet::HEADER_LEN) as u16;
    if let Some(route) = &edits.route {
        entry.kind |= ROUTE;
        rewrite.macs[..6].copy_from_slice(&route.dst.0);
        rewrite.macs[6..].copy_from_slice(&route.src.0);
        rewrite.ip_delta = Delta::ZERO.word(0x100, 0);
        if let Some(FloatingId(id)) = route.id {
            entry.kind |= COUNT_OUT;
            rewrite.mapping = id;
        }
    }
    if let Some(nat) = &edits.nat {
        entry.kind |= if nat.source { NAT_SRC | COUNT_OUT } else { NAT_DST | COUNT_IN };
        rewrite.mapping = nat.id.0;
        rewrite.nat = nat.address.v4_bytes();
        rewrite.ip_delta = rewrite.ip_delta.and(nat.delta);
        rewrite.l4_delta = nat.delta;
    }
    entry.src_cell = tables.fdb.version_cell(probe.src.0, probe.src.1);
    let next = FdbKey::new(verdict.vni, 0, edits.route.map_or(h.eth_dst, |r| r.dst));
    entry.dst_cell = tables.fdb.version_cell(tables.fdb.hash(next), next);
    entry.stamp = entry.current(tables);
    Some((entry, rewrite))
}
