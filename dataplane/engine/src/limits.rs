//! Every bound of the engine, in one place, each with its reason.

use core::time::Duration;

/// Maximum number of frames in a batch. Batches of 32-64 give nearly all the gain of batching; a longer one
/// only adds latency and evicts its own headers from the first-level cache.
pub const BATCH_LEN: usize = 64;

/// Bytes in a small slot. Two per page; AF_XDP calls them chunks.
pub const SLOT_SMALL_LEN: usize = 2048;

/// Bytes free in front of a new frame. Equal to the kernel's XDP headroom; the switch pushes at most an IPv6
/// VXLAN header (70 bytes) and a VLAN tag (4).
pub const HEADROOM: usize = 256;

/// Bytes in a large slot: a 64 KiB GSO packet, its headroom and an Ethernet header.
pub const SLOT_LARGE_LEN: usize = 65_536 + 512;

/// Bytes after which a port stops filling a batch. The segments of GSO packets with this many bytes in total,
/// at 1500 bytes each, fit a transmit queue and the second-level cache.
pub const BATCH_BYTES: usize = 256 * 1024;

/// Copies in large slots on a mirror target's queue: an eighth of a worker's large slots, so that mirrors
/// never keep other ports from receiving GSO packets.
pub const MIRROR_LARGE_MAX: usize = 64;

/// Large slots of a dry run: as many as a worker has.
pub const DRY_RUN_LARGE_MAX: usize = 8 * MIRROR_LARGE_MAX;

/// Maximum number of segments of a GSO packet: as many as a transmit queue holds. 64 KiB at the smallest MTU
/// of IPv4 hosts (576) make 126; a guest that asks for segments of one byte does not get 65,535.
pub const SEGMENTS_MAX: usize = TX_QUEUE_LEN;

/// Datagrams in a tunnel GSO packet that we send: Linux takes 64 (`UDP_MAX_SEGMENTS` up to 6.6) or 128.
pub const TUNNEL_DATAGRAMS_MAX: usize = 64;

/// Datagrams in a tunnel GSO packet that we receive: the maximum that any Linux sends or coalesces.
pub const TUNNEL_DATAGRAMS_IN_MAX: usize = 128;

/// Depth to which the switch reads a sender's own tunnels: an overlay in an overlay in an overlay, and one more.
pub const NESTED_MAX: usize = 4;

/// MPLS labels read in front of a packet. Two or three are usual.
pub const MPLS_LABELS_MAX: usize = 4;

/// Flows whose segments are coalesced at the same time (Linux: 8 per hash bucket). With more flows between
/// two flushes, each has few segments to coalesce.
pub const MERGES_MAX: usize = 16;

/// ICMP errors and TCP resets that a worker sends per second (RFC 1812 §4.3.2.8 and RFC 4443 §2.4 (f) require
/// a limit): as many as Linux (`net.ipv4.icmp_msgs_per_sec`). Path-MTU discovery needs one per flow every ten
/// minutes.
pub const ICMP_ERRORS_PPS: u32 = 1000;

/// Errors among these that one source gets per second, with a burst of a quarter: a tenth of the total, so
/// that a source that provokes errors on purpose leaves enough for the others. A traceroute or `mtr` needs a
/// few; a host with a hundred flows of too large packets gets its errors within a second.
pub const ICMP_ERRORS_PER_SOURCE_PPS: u32 = 100;

/// Buckets that sources of packets share by a keyed hash when their errors are limited. A source that exceeds
/// its limit shares its bucket with one in a thousand others. 40 KiB of memory for each worker.
pub const ICMP_ERROR_BUCKETS: usize = 1024;

/// Unanswered questions for a next hop, a second apart, before it counts as unreachable (Linux:
/// `mcast_solicit`, 3).
pub const RESOLVE_ATTEMPTS: u8 = 3;

/// Fragmented packets of floating IPs with port lists whose ports a worker keeps at a time, in sets of
/// [`FRAGMENT_WAYS`]: 200 KiB. A source fills one set at most.
pub const FRAGMENTS_MAX: usize = 4096;

/// Fragmented packets of one source whose ports are kept at a time. A sender sends the fragments of a packet
/// together, so only a few of its packets are incomplete at any time.
pub const FRAGMENT_WAYS: usize = 16;

/// How long the ports of a fragmented packet are kept. The fragments of a packet arrive together or hardly at
/// all. At a gigabit per second a sender repeats each of the 65,536 identifications every 0.8 s (RFC 4963
/// §3), so the 30 s that Linux waits for reassembly would be far too long.
pub const FRAGMENT_AGE: Duration = Duration::from_secs(2);

/// Underlay next hops whose answers are awaited at a time. An rVM has a gateway or two. A packet to a further
/// next hop still goes to the kernel, but its sender gets no error.
pub const SILENT_HOPS_MAX: usize = 64;

/// Path-MTU probes of peers that are answered per second. A peer asks a few dozen when its path changed; an
/// answer is never larger than the question.
pub const PATH_ANSWERS_PPS: u32 = 2000;

/// Station events per tick. People want to see stations come and go, and a flood of MAC addresses must not
/// crowd answers out of the mailbox.
pub const LEARNED_EVENTS: u32 = 64;

/// Events per tick, and answers, about peers with a different configuration. One of each is enough, and a
/// flood of them must not crowd answers out of the mailbox.
pub const PEER_EVENTS: u32 = 16;

/// Packets within a tick that make a flow hot, and so a candidate for the kernel offload: a few hundred per
/// second.
pub const FLOW_HOT_FRAMES: u32 = 32;

/// The same limit while half of the offload's slots are free: sixteen packets per second.
pub const FLOW_WARM_FRAMES: u32 = 4;

/// One in this many packets from the flow cache is sampled to find hot flows.
pub const FLOW_SAMPLE: u32 = 16;

/// Flows installed in the kernel offload per tick, so that installation never crowds out forwarding.
pub const FLOW_INSTALLS: u32 = 1024;

/// Ticks without a hit after which an offloaded flow gives up its slot (5 s).
pub const FLOW_IDLE_TICKS: u32 = 20;

/// Ticks that a flow revoked with all others keeps its slot, to be installed again unchanged (1 s).
pub const FLOW_STALE_TICKS: u32 = 4;

/// Frames that a port's transmit queue holds between two flushes. Beyond it the queue drops and counts.
pub const TX_QUEUE_LEN: usize = 512;

/// A queue that segmentation has made this long is flushed before the next port's batch.
pub const CROWDED_QUEUE_LEN: usize = TX_QUEUE_LEN / 2;

/// Commands waiting for a worker, and events and replies waiting for the agent.
pub const MAILBOX_LEN: usize = 4096;

/// Maximum number of workers. One switch on more cores than this is several switches.
pub const WORKERS_MAX: usize = 64;

/// Frames in transit from one worker to another: as many as a port's own rings hold, since the other worker
/// may be in the middle of a long send.
pub const HANDOFF_FRAMES: usize = 4 * TX_QUEUE_LEN;

/// Frames that a worker takes from another per poll: one batch in, one batch out, twice.
pub const HANDOFF_FRAMES_PER_POLL: usize = 2 * BATCH_LEN;

/// News in transit from one worker to another: enough for a worker that does not run for a tick.
pub const HANDOFF_NEWS: usize = 8192;

/// News that a worker takes from another per poll, so that a flood of addresses at one costs the other
/// little: as many as one batch of frames can teach.
pub const HANDOFF_NEWS_PER_POLL: usize = BATCH_LEN;

/// Stations that a worker reports to the others immediately, per tick. The scan repeats the rest.
pub const CLAIMS_PER_TICK: u32 = 4096;

/// Stations repeated to the other workers per tick. The scan of a table of a million active stations takes
/// two minutes, well within the usual ageing time.
pub const SIGHTINGS_PER_TICK: u32 = 2048;

/// Commands that a worker takes per poll, so that a burst of configuration cannot stall forwarding.
pub const COMMANDS_PER_POLL: usize = 64;

/// Networks, ports and peers. Small tables, dense; an rVM that needs more is several rVMs.
pub const NETWORKS_MAX: usize = 4096;
/// See [`NETWORKS_MAX`]: 1024 and the uplink. As many ports of kind `afxdp` share the daemon's frame memory of 64 MiB
/// (`ports/afxdp/share.rs`), and each costs the kernel 2.5 MiB more: 2.5 GiB for all.
pub const PORTS_MAX: usize = 1025;
/// See [`NETWORKS_MAX`].
pub const PEERS_MAX: usize = 4096;

/// MAC addresses that one network holds by default (Open vSwitch's default).
pub const FDB_NETWORK_DEFAULT: u32 = 8192;

/// MAC addresses that one worker's table holds in total; bounds memory, not policy.
pub const FDB_TOTAL_MAX: u32 = 1 << 21;

/// How long a learned MAC address stays without traffic (802.1Q's recommended 300 s).
pub const FDB_AGE: Duration = Duration::from_secs(300);

/// Resolved (VNI, IP) pairs that the switch keeps for its own routing.
pub const NEIGHBORS_MAX: usize = 16_384;

/// How long a neighbour's MAC is used without a new answer.
pub const NEIGHBOR_AGE: Duration = Duration::from_secs(120);

/// Broadcast, multicast and unknown-unicast frames that a port may send per second, by default.
pub const BUM_PPS_DEFAULT: u32 = 10_000;

/// Prefixes of the underlay for each of our source addresses. A cloud's route table has hundreds. The
/// Internet's has a million, but few next hops, so most of its prefixes are aggregated before they get here.
pub const UNDERLAY_ROUTES_MAX: usize = 16_384;

/// Hop limit of the outer header (the kernel's default for tunnels).
pub const OUTER_TTL: u8 = 64;

/// IPv6 extension headers that are parsed before a packet counts as malformed.
pub const IPV6_EXTENSIONS_MAX: usize = 6;

/// How often the engine asks again for an unresolved next hop.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(1);

/// How often the engine refreshes a next hop that it depends on.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(20);

/// Entries per answer to a table query; the client pages.
pub const QUERY_PAGE_LEN: usize = 1024;

/// FDB slots scanned for one page of answers, so that listing a huge, empty table does not stall forwarding.
pub const FDB_PAGE_SLOTS: u32 = 65_536;

/// Maximum number of FDB slots scanned in one ageing slice: the largest table then takes about a minute.
pub const AGE_SLICE_MAX: u32 = 32_768;

/// Gratuitous ARP requests or neighbor solicitations per floating IP that moved here, a second apart (RFC
/// 5227 §2.3 requires two of a host; one more is for a tunnel that is not up yet).
pub const ANNOUNCEMENTS: u8 = 3;

/// Entries in one worker's flow cache: 8 MiB, touched only as far as flows exist. Busy rVMs have thousands of
/// concurrent flows. Beyond this limit packets take the slow path, which costs a few times more but is still
/// fast.
pub const MEMO_ENTRIES: usize = 1 << 16;

/// Captures and waits for a frame at a time; the agent refuses more.
pub const WATCHES_MAX: usize = 8;

/// Frames that a worker keeps for one watch until they are fetched: a few milliseconds at full speed.
pub const WATCH_FRAMES: usize = 4096;

/// Bytes of these frames.
pub const WATCH_BYTES: usize = 4 << 20;

/// Operations of a watch's filter, so that their results fit one word.
pub const WATCH_FILTER_OPS: usize = 64;

/// Name servers of each family in a DHCP answer: as many as resolvers use.
pub const DHCP_DNS_MAX: usize = 3;

/// Opaque link-local addresses of one guest port: the current one, and one for a system that is installed
/// after it.
pub const LINK_LOCALS_MAX: usize = 2;

/// How long a claim of a link-local address waits for an objection (RFC 6620 §3.1: TENT_LT). Less than the
/// second for which the guest itself waits (RFC 4862 §5.4).
pub const LINK_LOCAL_TENTATIVE: Duration = Duration::from_millis(500);

/// Length of a boot file's name: the field of a DHCP message holds this and a final zero (RFC 2131 §2).
pub const DHCP_BOOT_FILE_LEN_MAX: usize = 127;
