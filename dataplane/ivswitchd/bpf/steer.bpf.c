// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Selects the frames of an interface that go up to the switch (AF_XDP), and those that stay with the kernel.
//
// steer_all     a dedicated port: every frame goes up. Without a socket on its queue a frame is
//               dropped, never given to the kernel: a guest must not reach the rVM's own stack.
// steer_shared  the uplink, which the kernel uses as well. Of the frames to our own MAC address, tunnel
//               packets and those that the `steering` map selects go up; all others pass, as does every
//               frame while the queue lacks a socket: a dead daemon must not cut the rVM off.
// steer_tagged  steer_all for an interface whose driver may keep the VLAN tag outside the frame (a veth whose
//               far end is a bridge). It writes the tag into the frame first. Linux 6.8 can ask a driver, in a
//               program that is loaded for one interface only.
//
// Before that, all programs check whether the switch has already decided about the packet's flow (cache_xdp.bpf.h).
//
// Among the packets that the map sends up, answers to the rVM's own kernel stay with it anyway (own.bpf.h).
//
// packet.bpf.c and track.bpf.c include this file to apply the same rules without XDP (an AF_PACKET socket and
// the tc hooks next to it): only the way of reading a packet's bytes differs.
//
// The object is committed; bpf/build.sh rebuilds and compares it.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define EXTENSIONS_MAX 6     // IPv6 extension headers to follow; a packet with more goes to the kernel

enum { PASSED, UP_TUNNEL, UP_REALITY, OWN, COUNTERS };

#define STAYS(verdict) ((verdict) == PASSED || (verdict) == OWN)

// The exact matches for our packets. All zero: no packet is ours.
struct config {
	__u8 mac[ETH_ALEN];      // the NIC's own; frames to any other address pass
	__be16 tunnel_port;      // 0: no tunnel
	__u8 vtep[16];           // IPv4 as ::ffff:a.b.c.d
	__u64 own;               // 0: nobody notes the kernel's own flows, so none are known
	__u64 mix[6];            // odd numbers that nobody else knows
	__u64 shares_port;       // a vxlan device of the kernel's has the tunnel's port, too: `vnis` says what is ours
};

// Longest prefix wins: an address (128 bits), its protocol (136), its ports (144 to 160).
struct steering_key {
	__u32 prefixlen;
	__u8 addr[16];
	__u8 proto;
	__u8 zero;
	__be16 port;
};
#define BITS_PROTO 136
#define BITS_PORT 160

#ifndef CONTEXT
#define CONTEXT struct xdp_md
#define load_bytes bpf_xdp_load_bytes
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} xsks_map SEC(".maps");   // by this name the crate afxdp finds it
#endif

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct steering_key);
	__type(value, __u32);    // 1: up, 0: pass
} steering SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

#include "layout.h"
#include "own.bpf.h"

#ifndef STEER_RULES_ONLY
#include "cache_xdp.bpf.h"
#endif

struct ports { __be16 source, dest; };

// The fields of an IP header.
struct packet {
	__u32 l4;                // offset of the transport header
	__u8 proto;
	__u8 fragment;           // any fragment, including the first
	__u8 first;              // holds the transport header
	__u8 v6;
	__u32 id;                // of a fragment's packet
	__u8 source[16] __attribute__((aligned(8)));
	__u8 dest[16];
};

static __always_inline int same(const __u8 *a, const __u8 *b)
{
	const __u32 *x = (const void *)a, *y = (const void *)b;
	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

static __always_inline void map_v4(__u8 *to, __be32 addr)
{
	__u32 *words = (void *)to;
	words[0] = words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = addr;
}

// Reads the IP header at `off`. False: leave it to the kernel.
//
// Fields without a fixed place in the frame are read through the helper: computing with packet pointers would
// take CAP_PERFMON to load. So would a half-word that the compiler writes over a spilled pointer; for that
// reason functions here have stacks of their own.
static __noinline int read_ip(CONTEXT *ctx, __u32 off, int v6, struct packet *p)
{
	p->fragment = 0;
	p->first = 1;
	p->v6 = v6;
	p->id = 0;
	if (!v6) {
		struct iphdr ip;
		if (load_bytes(ctx, off, &ip, sizeof ip) || ip.version != 4 || ip.ihl < 5)
			return 0;
		__u16 frag = bpf_ntohs(ip.frag_off);
		p->fragment = (frag & 0x3fff) != 0;
		p->id = ip.id;
		p->first = (frag & 0x1fff) == 0;
		p->proto = ip.protocol;
		p->l4 = off + ip.ihl * 4;
		map_v4(p->source, ip.saddr);
		map_v4(p->dest, ip.daddr);
		return 1;
	}
	struct ipv6hdr ip;
	if (load_bytes(ctx, off, &ip, sizeof ip) || ip.version != 6)
		return 0;
	__builtin_memcpy(p->source, &ip.saddr, 16);
	__builtin_memcpy(p->dest, &ip.daddr, 16);
	p->proto = ip.nexthdr;
	off += sizeof ip;
	for (int i = 0; i <= EXTENSIONS_MAX; i++) {
		if (p->proto != IPPROTO_HOPOPTS && p->proto != IPPROTO_ROUTING &&
		    p->proto != IPPROTO_DSTOPTS && p->proto != IPPROTO_FRAGMENT)
			break;
		__u8 ext[8] __attribute__((aligned(8)));
		if (i == EXTENSIONS_MAX || load_bytes(ctx, off, ext, sizeof ext))
			return 0;
		if (p->proto == IPPROTO_FRAGMENT) {
			__u16 frag = (__u16)ext[2] << 8 | ext[3];
			p->fragment |= (frag & 0xfff9) != 0;
			p->first &= (frag & 0xfff8) == 0;
			p->id = *(__u32 *)(ext + 4);
			off += 8;
		} else {
			off += 8 + ext[1] * 8;
		}
		p->proto = ext[0];
		if (!p->first)
			break;
	}
	p->l4 = off;
	return 1;
}

// The common tunnel packet, with nothing between IP and UDP: every field has a fixed place.
static __always_inline int is_plain_tunnel(void *data, void *end, const struct config *c)
{
	struct {
		struct ethhdr eth;
		struct iphdr ip;
		struct ports ports;
	} __attribute__((packed)) *v4 = data;
	struct {
		struct ethhdr eth;
		struct ipv6hdr ip;
		struct ports ports;
	} __attribute__((packed)) *v6 = data;
	const __be32 *vtep = (const void *)c->vtep;
	if (!c->tunnel_port || (void *)(v4 + 1) > end)
		return 0;
	if (v4->eth.h_proto == bpf_htons(ETH_P_IP))
		return *(__u8 *)&v4->ip == 0x45 && v4->ip.protocol == IPPROTO_UDP &&
		       !(v4->ip.frag_off & bpf_htons(0x1fff)) && v4->ports.dest == c->tunnel_port &&
		       v4->ip.daddr == vtep[3] && vtep[2] == bpf_htonl(0xffff) && !(vtep[0] | vtep[1]);
	if ((void *)(v6 + 1) > end)
		return 0;
	const __be32 *to = v6->ip.daddr.s6_addr32;
	return v6->eth.h_proto == bpf_htons(ETH_P_IPV6) && v6->ip.version == 6 &&
	       v6->ip.nexthdr == IPPROTO_UDP && v6->ports.dest == c->tunnel_port && to[0] == vtep[0] &&
	       to[1] == vtep[1] && to[2] == vtep[2] && to[3] == vtep[3];
}

static __always_inline int has_ports(const struct packet *p)
{
	return p->proto == IPPROTO_TCP || p->proto == IPPROTO_UDP;
}

// Whether this type of ICMP message quotes the packet that it is about (RFC 792, RFC 4443 s.2.1).
static __always_inline int is_icmp_error(const struct packet *p, __u8 type)
{
	return p->v6 ? type >= 1 && type <= 4 : type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

// The identifier of an echo message of this type, at `off` in the frame. False: the message has none.
static __always_inline int read_echo(CONTEXT *ctx, __u32 off, __be16 *id)
{
	return !load_bytes(ctx, off + 4, id, sizeof *id);
}

#ifndef TRACK_ONLY
// Networks whose tunnel packets are ours, where the kernel has the port as well.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} vnis SEC(".maps");

// A tunnel packet whose VXLAN header is at `off`.
static __noinline int classify_tunnel(CONTEXT *ctx, const struct config *c, __u32 off)
{
	__be32 vxlan[VXLAN_LEN / 4] __attribute__((aligned(8)));
	if (!c->shares_port || load_bytes(ctx, off, vxlan, sizeof vxlan))
		return UP_TUNNEL;
	__u32 vni = bpf_ntohl(vxlan[1]) >> 8;
	return bpf_map_lookup_elem(&vnis, &vni) ? UP_TUNNEL : PASSED;
}

enum { WHOLE, FIRST_FRAGMENT, LATER_FRAGMENT };

// Whether a packet that `steering` sends up belongs to one of the kernel's own flows after all. `flow` has
// its addresses, protocol and ports as the kernel sees them (for an ICMP error those of the quoted packet),
// and is overwritten; `id` identifies a fragment's packet.
static __noinline int stays_own(const struct config *c, struct own_key *flow, int piece, __u32 id)
{
	if (piece != LATER_FRAGMENT && !own_has(flow, c->mix))
		return 0;
	if (piece == WHOLE)
		return 1;
	// Most fragments have no ports: they follow the first.
	flow->remote_port = id;
	flow->local_port = id >> 16;
	flow->fragment = 1;
	if (piece == LATER_FRAGMENT)
		return own_has_fragment(flow, c->mix);
	own_note_fragment(flow, c->mix);
	return 1;
}

// Classifies a packet whose fields have no fixed place.
static __noinline int classify_packet(CONTEXT *ctx, const struct config *c, int v6)
{
	struct packet p = {};
	struct steering_key key = {};
	struct own_key flow = {};
	if (!read_ip(ctx, sizeof(struct ethhdr), v6, &p))
		return PASSED;
	__builtin_memcpy(key.addr, p.dest, 16);
	__builtin_memcpy(flow.local, p.dest, 16);
	__builtin_memcpy(flow.remote, p.source, 16);
	flow.proto = p.proto;
	key.prefixlen = BITS_PROTO;
	key.proto = p.proto;
	int ports_known =
		has_ports(&p) && p.first && !load_bytes(ctx, p.l4, &flow.remote_port, sizeof(struct ports));
	int icmp = p.proto == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
	__u8 type = 0;
	if (icmp && p.first) {
		if (load_bytes(ctx, p.l4, &type, 1))
			return PASSED;
		// The answer to an echo request.
		if (type == (v6 ? 129 : 0) && read_echo(ctx, p.l4, &flow.remote_port))
			flow.local_port = flow.remote_port;
	}

	if (p.proto == IPPROTO_UDP && ports_known) {
		// The first fragment of a tunnel packet goes up, where it is counted; the others follow the rule for
		// fragments below. Our peers do not fragment.
		if (c->tunnel_port && flow.local_port == c->tunnel_port && same(p.dest, c->vtep))
			return classify_tunnel(ctx, c, p.l4 + 8);
		// The rVM's own lease: without it the rVM loses its address.
		if (!v6 && flow.remote_port == bpf_htons(67) && flow.local_port == bpf_htons(68))
			return PASSED;
	}

	if (p.fragment) {
		// All fragments of a packet must go the same way, and most have no ports: address and protocol decide.
	} else if (ports_known) {
		key.port = flow.local_port;
		key.prefixlen = BITS_PORT;
	} else if (icmp) {
		// Neighbour and multicast listener discovery keep the address itself reachable.
		if (v6 && ((type >= 130 && type <= 137) || type == 143))
			return PASSED;
		if (is_icmp_error(&p, type)) {
			// An error goes to the owner of the flow that it is about: we sent the quoted packet.
			struct packet quoted = {};
			if (!read_ip(ctx, p.l4 + 8, v6, &quoted) || !same(quoted.source, p.dest))
				return PASSED;
			__builtin_memcpy(flow.remote, quoted.dest, 16);
			key.proto = flow.proto = quoted.proto;
			if (has_ports(&quoted) && quoted.first &&
			    !load_bytes(ctx, quoted.l4, &flow.remote_port, sizeof(struct ports))) {
				// The quoted packet went the other way.
				__be16 ours = flow.remote_port;
				flow.remote_port = flow.local_port;
				flow.local_port = ours;
				// An error about our tunnel: path MTU and unreachable peers are the kernel's business.
				if (quoted.proto == IPPROTO_UDP && flow.remote_port == c->tunnel_port)
					return PASSED;
				key.port = ours;
				key.prefixlen = BITS_PORT;
			} else if (quoted.proto == p.proto && quoted.first &&
				   read_echo(ctx, quoted.l4, &flow.remote_port)) {
				flow.local_port = flow.remote_port;
			}
		}
	}
	__u32 *up = bpf_map_lookup_elem(&steering, &key);
	if (!up || !*up)
		return PASSED;
	if (!c->own)
		return UP_REALITY;
	int piece = !p.fragment ? WHOLE : p.first ? FIRST_FRAGMENT : LATER_FRAGMENT;
	return stays_own(c, &flow, piece, p.id) ? OWN : UP_REALITY;
}

// Classifies a frame whose first bytes are from `data` to `end`.
static __always_inline int classify_at(CONTEXT *ctx, void *data, void *end, const struct config *c)
{
	struct ethhdr *eth = data;
	if ((void *)(eth + 1) > end)
		return PASSED;
	// Only unicast to our NIC; no station has a zero address, so an empty config takes no frame.
	const __u16 *mac = (const void *)c->mac, *to = (const void *)eth->h_dest;
	if (to[0] != mac[0] || to[1] != mac[1] || to[2] != mac[2] || !(mac[0] | mac[1] | mac[2]))
		return PASSED;
	// A tag or anything but IP stays with the kernel: our underlay is untagged.
	int v6 = eth->h_proto == bpf_htons(ETH_P_IPV6);
	if (!v6 && eth->h_proto != bpf_htons(ETH_P_IP))
		return PASSED;

	if (is_plain_tunnel(data, end, c))
		return classify_tunnel(ctx, c, sizeof *eth + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + 8);

	return classify_packet(ctx, c, v6);
}
#endif

#ifndef STEER_RULES_ONLY
static __noinline int classify(struct xdp_md *ctx, const struct config *c)
{
	return classify_at(ctx, (void *)(long)ctx->data, (void *)(long)ctx->data_end, c);
}

// Whether this is a common tunnel packet over IPv4 to our NIC.
static __always_inline int is_ours(struct xdp_md *ctx, const struct config *c)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const __u16 *mac = (const void *)c->mac, *to = data;
	return data + sizeof(struct ethhdr) <= end && to[0] == mac[0] && to[1] == mac[1] && to[2] == mac[2] &&
	       to[6] == bpf_htons(ETH_P_IP) && is_plain_tunnel(data, end, c);
}

// Whether a frame is a plain IPv4 packet of one of the kernel's own flows. The cache may know a flow with the
// very same ports, and must not be used then.
static __noinline int is_own(struct xdp_md *ctx, const struct config *c)
{
	struct {
		struct ethhdr eth;
		struct iphdr ip;
		struct ports ports;
	} __attribute__((packed)) *f = (void *)(long)ctx->data;
	if (!c || (void *)(f + 1) > (void *)(long)ctx->data_end || f->eth.h_proto != bpf_htons(ETH_P_IP) ||
	    *(__u8 *)&f->ip != 0x45 || (f->ip.frag_off & bpf_htons(0x3fff)))
		return 0;
	struct own_key flow = {};
	map_v4(flow.remote, f->ip.saddr);
	map_v4(flow.local, f->ip.daddr);
	flow.remote_port = f->ports.source;
	flow.local_port = f->ports.dest;
	flow.proto = f->ip.protocol;
	return (flow.proto == IPPROTO_TCP || flow.proto == IPPROTO_UDP) && own_has(&flow, c->mix);
}

static __always_inline int take_all(struct xdp_md *ctx)
{
	int done = follow(ctx, 0);
	if (done != UNDECIDED)
		return done;
	return bpf_redirect_map(&xsks_map, ctx->rx_queue_index, XDP_DROP);
}

SEC("xdp.frags")
int steer_all(struct xdp_md *ctx)
{
	return take_all(ctx);
}

// The kernel's function bpf_xdp_metadata_rx_vlan_tag; the loader fills in its number (program.rs), as aya
// knows only helpers.
static int (*const tag_beside)(const struct xdp_md *, __be16 *type, __u16 *tci) = (void *)0x6977;

#define MACS_LEN (2 * ETH_ALEN)
#define TAG_LEN 4

SEC("xdp.frags")
int steer_tagged(struct xdp_md *ctx)
{
	__be16 type = 0;
	__u16 tci = 0;
	if (!tag_beside(ctx, &type, &tci)) {
		if (bpf_xdp_adjust_head(ctx, -TAG_LEN))
			return XDP_DROP;
		void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
		if (data + MACS_LEN + TAG_LEN > end)
			return XDP_DROP;
#pragma unroll
		for (int i = 0; i < MACS_LEN; i += 4)
			U32(data + i) = U32(data + i + TAG_LEN);
		U16(data + MACS_LEN) = type;
		U16(data + MACS_LEN + 2) = bpf_htons(tci);
	}
	return take_all(ctx);
}

SEC("xdp.frags")
int steer_shared(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct config *c = bpf_map_lookup_elem(&config, &zero);
	if (!c)
		return XDP_PASS;
	__u32 verdict = OWN;
	int tunnel = is_ours(ctx, c);
	if (tunnel || !c->own || !is_own(ctx, c)) {
		int done = follow(ctx, tunnel ? OUTER_LEN : 0);
		if (done != UNDECIDED)
			return done;
		verdict = classify(ctx, c);
	}
	__u64 *count = bpf_map_lookup_elem(&counters, &verdict);
	if (count)
		*count += 1;
	if (STAYS(verdict))
		return XDP_PASS;
	return bpf_redirect_map(&xsks_map, ctx->rx_queue_index, XDP_PASS);
}

// Run only by the daemon (BPF_PROG_TEST_RUN): sends the frame to the output that its first two payload bytes
// name, to learn whether redirected frames arrive there.
SEC("xdp.frags")
int probe_output(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (data + 16 > end)
		return XDP_DROP;
	return bpf_redirect_map(&outputs, U16(data + 14), XDP_DROP);
}

#endif

#ifndef TRACK_ONLY
char LICENSE[] SEC("license") = "Dual BSD/GPL";
#endif
