//! Every bound of the engine, in one place, each with its reason.

use core::time::Duration;

/// Frames taken from a port at once. Batches of 32-64 give nearly all the gain of batching; a longer
/// one only adds latency and evicts its own headers from the first-level cache.
pub const BATCH_LEN: usize = 64;

/// Bytes in a small slot. Two per page, and what AF_XDP calls a chunk.
pub const SLOT_SMALL_LEN: usize = 2048;

/// Bytes free in front of a new frame. The kernel's own XDP headroom; the deepest push we ever make
/// is an IPv6 VXLAN header (70 bytes) and a VLAN tag (4).
pub const HEADROOM: usize = 256;

/// Bytes in a large slot: a 64 KiB super-frame, its headroom and an Ethernet header.
pub const SLOT_LARGE_LEN: usize = 65_536 + 512;

/// Bytes after which a port stops filling a batch. Super-frames of this many bytes, cut to 1500, are what a transmit
/// queue holds, and still fit the second-level cache.
pub const BATCH_BYTES: usize = 256 * 1024;

/// Copies in large slots on a mirror target's queue: an eighth of a worker's large slots, so that mirrors never keep
/// others from receiving super-frames.
pub const MIRROR_LARGE_MAX: usize = 64;

/// Segments one super-frame may be cut into: as many as a transmit queue holds. 64 KiB at the smallest MTU of IPv4
/// hosts (576) make 126; a guest that asks for segments of one byte does not get 65,535.
pub const SEGMENTS_MAX: usize = TX_QUEUE_LEN;

/// Datagrams in a tunnel super-frame that we send: Linux takes 64 (`UDP_MAX_SEGMENTS` up to 6.6) or 128.
pub const TUNNEL_DATAGRAMS_MAX: usize = 64;

/// Datagrams in a tunnel super-frame that we receive: what any Linux sends or merges.
pub const TUNNEL_DATAGRAMS_IN_MAX: usize = 128;

/// Depth to which the switch reads a sender's own tunnels: an overlay in an overlay in an overlay, and one more.
pub const NESTED_MAX: usize = 4;

/// MPLS labels read in front of a packet. Two or three are usual.
pub const MPLS_LABELS_MAX: usize = 4;

/// Flows whose segments are merged at once (Linux: 8 per hash bucket). More flows than that between two flushes
/// leave little of each to merge.
pub const MERGES_MAX: usize = 16;

/// ICMP errors and TCP resets a worker sends per second (RFC 1812 §4.3.2.8 and RFC 4443 §2.4 (f) ask for a limit): as
/// many as Linux (`net.ipv4.icmp_msgs_per_sec`). Path-MTU discovery needs one per flow and ten minutes.
pub const ICMP_ERRORS_PPS: u32 = 1000;

/// Of these, how many one source is sent per second, a quarter of them at once: a tenth of all, so that whoever makes
/// errors on purpose leaves the others theirs. A traceroute or `mtr` needs a few, a host with a hundred flows of
/// packets that are too big is told within the second.
pub const ICMP_ERRORS_PER_SOURCE_PPS: u32 = 100;

/// Buckets that sources of packets share by a keyed hash when their errors are limited: one that sends too many shares
/// its bucket with one in a thousand others. 40 KiB of memory for each worker.
pub const ICMP_ERROR_BUCKETS: usize = 1024;

/// Questions for a next hop, a second apart, that stay without an answer before it counts as unreachable
/// (Linux: `mcast_solicit`, 3).
pub const RESOLVE_ATTEMPTS: u8 = 3;

/// Fragmented packets of floating IPs with port lists whose ports a worker remembers at a time, in sets of
/// [`FRAGMENT_WAYS`]: 200 KiB. A source fills one set at most.
pub const FRAGMENTS_MAX: usize = 4096;

/// Fragmented packets of one source whose ports are remembered at a time. A sender hands the fragments of a packet over
/// together, so few of its packets are on the way in parts.
pub const FRAGMENT_WAYS: usize = 16;

/// How long the ports of a fragmented packet are remembered. The fragments of a packet arrive together or hardly
/// at all, and at a gigabit per second a sender uses each of the 65,536 identifications again every 0.8 s (RFC 4963 §3),
/// so Linux' 30 s for putting packets together would be far too long.
pub const FRAGMENT_AGE: Duration = Duration::from_secs(2);

/// Underlay next hops at a time that are watched for whether they ever answer. An rVM has a gateway or two; a packet to a
/// further one goes to the kernel as always, only its sender is not told.
pub const SILENT_HOPS_MAX: usize = 64;

/// Path-MTU probes of peers that are answered per second. A peer asks a few dozen when its path changed; an
/// answer is never larger than the question.
pub const PATH_ANSWERS_PPS: u32 = 2000;

/// Stations told of per tick: people want to see them come and go, and a flood of MAC addresses must not
/// crowd answers out of the mailbox.
pub const LEARNED_EVENTS: u32 = 64;

/// Signs of peers that are configured differently than here told of per tick, and answered: one of each is enough, and a
/// flood of them must not crowd answers out of the mailbox.
pub const PEER_EVENTS: u32 = 16;

/// Packets within a tick that make a flow worth a place in the verdict cache: a few hundred per second.
pub const FLOW_HOT_FRAMES: u32 = 32;

/// As many as that make one worth a place while half of the places are free: sixteen a second.
pub const FLOW_WARM_FRAMES: u32 = 4;

/// Of this many packets whose verdict is remembered, one is looked at to find hot flows.
pub const FLOW_SAMPLE: u32 = 16;

/// Flows installed in the verdict cache per tick, so that installing never crowds out forwarding.
pub const FLOW_INSTALLS: u32 = 1024;

/// Ticks without a hit after which a cached flow gives up its place (5 s).
pub const FLOW_IDLE_TICKS: u32 = 20;

/// Ticks that a flow revoked with all others keeps its place, to be installed again as it was (1 s).
pub const FLOW_STALE_TICKS: u32 = 4;

/// Frames a port's transmit queue holds between two flushes. Beyond it the queue drops and counts.
pub const TX_QUEUE_LEN: usize = 512;

/// A queue that cutting has made this long is flushed before the next port's batch.
pub const CROWDED_QUEUE_LEN: usize = TX_QUEUE_LEN / 2;

/// Commands waiting for a worker, and events and replies waiting for the agent.
pub const MAILBOX_LEN: usize = 4096;

/// Workers at most. One switch on more cores than this is several switches.
pub const WORKERS_MAX: usize = 64;

/// Frames on their way from one worker to another: as many as a port's own rings hold, for the other worker may be in
/// the middle of a long send.
pub const HANDOFF_FRAMES: usize = 4 * TX_QUEUE_LEN;

/// Frames a worker takes over from another per poll: one batch in, one batch out, twice.
pub const HANDOFF_FRAMES_PER_POLL: usize = 2 * BATCH_LEN;

/// News on its way from one worker to another: what a worker that does not run for a tick may miss.
pub const HANDOFF_NEWS: usize = 8192;

/// News a worker takes from another at once, so that a flood of addresses at one costs the other little: as
/// many as one batch of frames can teach.
pub const HANDOFF_NEWS_PER_POLL: usize = BATCH_LEN;

/// Stations a worker tells the others of per tick, at once. The rest is told by the walk.
pub const CLAIMS_PER_TICK: u32 = 4096;

/// Stations repeated to the other workers per tick: a table of a million that are all heard is walked in two
/// minutes, well within the usual ageing time.
pub const SIGHTINGS_PER_TICK: u32 = 2048;

/// Commands a worker takes per poll, so that a burst of configuration cannot stall forwarding.
pub const COMMANDS_PER_POLL: usize = 64;

/// Networks, ports and peers. Small tables, dense; an rVM that needs more is several rVMs.
pub const NETWORKS_MAX: usize = 4096;
/// See [`NETWORKS_MAX`].
pub const PORTS_MAX: usize = 1024;
/// See [`NETWORKS_MAX`].
pub const PEERS_MAX: usize = 4096;

/// MAC addresses one network holds by default (Open vSwitch's default).
pub const FDB_NETWORK_DEFAULT: u32 = 8192;

/// MAC addresses one worker's table holds in all; bounds memory, not policy.
pub const FDB_TOTAL_MAX: u32 = 1 << 21;

/// How long a learned MAC address stays without traffic (802.1Q's recommended 300 s).
pub const FDB_AGE: Duration = Duration::from_secs(300);

/// Resolved (VNI, IP) pairs the switch remembers for its own routing.
pub const NEIGHBORS_MAX: usize = 16_384;

/// How long a neighbour is believed without being heard again.
pub const NEIGHBOR_AGE: Duration = Duration::from_secs(120);

/// Broadcast, multicast and unknown-unicast frames a port may send per second, by default.
pub const BUM_PPS_DEFAULT: u32 = 10_000;

/// Prefixes of the underlay for each of our source addresses. A cloud's route table has hundreds; the Internet's has
/// a million, but few next hops, so that most of its prefixes are merged before they come here.
pub const UNDERLAY_ROUTES_MAX: usize = 16_384;

/// Hop limit of the outer header (the kernel's default for tunnels).
pub const OUTER_TTL: u8 = 64;

/// IPv6 extension headers parsed before a frame is called malformed.
pub const IPV6_EXTENSIONS_MAX: usize = 6;

/// How often the engine asks again for an unresolved next hop.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(1);

/// How often the engine refreshes a next hop that it depends on.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(20);

/// Entries per answer to a table query; the asker pages.
pub const QUERY_PAGE_LEN: usize = 1024;

/// FDB slots one page of answers looks at, so that listing a huge, empty table does not stall forwarding.
pub const FDB_PAGE_SLOTS: u32 = 65_536;

/// FDB slots one ageing slice looks at, at most: the largest table is then seen whole about once a minute.
pub const AGE_SLICE_MAX: u32 = 32_768;

/// Gratuitous ARP requests or neighbor solicitations per floating IP that moved here, a second apart (what
/// RFC 5227 §2.3 asks of a host, and one more for a tunnel that is not up yet).
pub const ANNOUNCEMENTS: u8 = 3;

/// Verdicts one worker remembers: 8 MiB, touched only as far as there are flows. Busy rVMs have thousands of
/// flows at a time; beyond this many the long way, a few times longer, is still the fast path.
pub const MEMO_ENTRIES: usize = 1 << 16;

/// Captures and waits for a frame at a time; the agent refuses more.
pub const WATCHES_MAX: usize = 8;

/// Frames a worker keeps for one watch until they are fetched: a few milliseconds at full speed.
pub const WATCH_FRAMES: usize = 4096;

/// Bytes of them.
pub const WATCH_BYTES: usize = 4 << 20;

/// Operations of a watch's filter: the answers fit one word.
pub const WATCH_FILTER_OPS: usize = 64;

/// Name servers that DHCP tells a guest, of each family: as many as resolvers ask.
pub const DHCP_DNS_MAX: usize = 3;

/// Opaque link-local addresses of one guest port: the one in use, and the one of a system installed after it.
pub const LINK_LOCALS_MAX: usize = 2;

/// How long a claim of a link-local address waits for another station to object (RFC 6620 §3.1: TENT_LT), less than
/// the second for which the guest itself waits (RFC 4862 §5.4).
pub const LINK_LOCAL_TENTATIVE: Duration = Duration::from_millis(500);

/// Bytes of the name of a boot file: what the field of a DHCP message holds, which ends with a zero (RFC 2131 §2).
pub const DHCP_BOOT_FILE_LEN_MAX: usize = 127;
