// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The verdict cache: packets of flows that the switch has decided about are rewritten and redirected here.
//
// It decides nothing. A flow's packets look alike in every byte that the switch reads to decide, and what is
// done with them was worked out there (engine/src/forward/flow.rs). What may differ between them and would
// change the verdict is tested; such a packet goes up like any other, untouched.
//
// User space writes slots and reads their counts through the mapping. A slot is written only while nothing can
// be reading it: between two flows its epoch is 0, and a grace period of RCU passes (ports/afxdp/cache.rs).
// So a program that has seen the right epoch may use the slot to its end.

#define WAYS 2
#define SETS_BITS 13
#define OUTER_LEN 50
#define OUTPUTS 1024         // engine: limits::PORTS_MAX
#define UNDECIDED -1

// A count of hits and of their bytes in one word, so that one atomic instruction adds both. User space takes
// the differences; it looks every quarter of a second, long before either part has gone round.
#define HIT (1ULL << 38)

enum {
	BIT_ROUTED = 1,      // new MAC addresses, one hop less
	BIT_NAT_SOURCE = 2,
	BIT_NAT_DEST = 4,
	BIT_PUSH = 8,        // an outer header in front
	BIT_RELAYED = 16,    // with the hop limit that came in, less one
	BIT_UNMARKED = 32,   // the checksum may be unfinished
};

struct cache {
	__u64 epoch;         // of the flows that hold
	__u64 mix[6];        // odd numbers that nobody else knows
	__u64 on;
};

struct slot {
	__u64 epoch;
	__u64 key[5];
	__u16 out;           // of `outputs`
	__u16 len_max;       // of the inner frame
	__u32 bits;
	__u32 pseudo;        // sum of the pseudo-header without the length
	__u32 outer_sum;     // of the outer IPv4 header as in `outer`, in memory's byte order
	// 64
	__u8 outer[OUTER_LEN];
	__u16 ip_delta;      // of the IPv4 header's checksum, in memory's byte order
	__u16 l4_delta;
	__u16 zero;
	__be32 nat;
	__u32 zero2;
	// 128
	__u8 macs[12];
	__u8 zero3[52];
	// 192: written by us
	__u64 hits;
	__u64 stray;         // of them, those whose output was gone
	__u64 zero4[6];
};

struct set { struct slot way[WAYS]; };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cache);
} cache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << SETS_BITS);
	__type(key, __u32);
	__type(value, struct set);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, OUTPUTS);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} outputs SEC(".maps");

#define U16(p) (*(__u16 *)(p))
#define U32(p) (*(__u32 *)(p))
#define U64(p) (*(__u64 *)(p))

// Hides from the compiler where a pointer comes from: of two branches with constant offsets it would make one
// with a variable offset, which takes CAP_PERFMON to load.
#define OPAQUE(p) asm volatile("" : "+r"(p))

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// RFC 1624, eqn. 3. The order of bytes does not matter as long as it is the same everywhere (RFC 1071).
static __always_inline __u16 update(__u16 check, __u16 delta)
{
	return ~fold((__u16)~check + (__u32)delta);
}

static __always_inline int is(const struct slot *s, __u64 epoch, const __u64 *key)
{
	return s->epoch == epoch && !((s->key[0] ^ key[0]) | (s->key[1] ^ key[1]) | (s->key[2] ^ key[2]) |
				      (s->key[3] ^ key[3]) | (s->key[4] ^ key[4]));
}

// Translates and routes the packet whose Ethernet header is at `f`. False: cannot be.
static __always_inline int edit(void *f, void *end, const struct slot *s, __u32 bits, __u8 proto)
{
	if (f + 42 > end)
		return 0;
	if (bits & BIT_ROUTED) {
		U64(f) = U64(s->macs);
		U32(f + 8) = U32(s->macs + 8);
		*(__u8 *)(f + 22) -= 1;
	}
	U16(f + 24) = update(U16(f + 24), s->ip_delta);
	if (!(bits & (BIT_NAT_SOURCE | BIT_NAT_DEST)))
		return 1;
	if (bits & BIT_NAT_SOURCE) {
		void *source = f + 26;
		OPAQUE(source);
		U32(source) = s->nat;
	} else {
		U32(f + 30) = s->nat;
	}
	if (proto == IPPROTO_TCP) {
		if (f + 54 > end)
			return 0;
		U16(f + 50) = update(U16(f + 50), s->l4_delta);
	} else if (U16(f + 40)) {
		__u16 sum = update(U16(f + 40), s->l4_delta);
		U16(f + 40) = sum ? sum : 0xffff;   // zero would mean: none (RFC 768)
	}
	return 1;
}

// Does with the packet what was decided about its flow. `base`: where its (inner) Ethernet header is, behind
// a common tunnel header or at 0. UNDECIDED: it is as it was.
//
// Every field that is read has a constant place, since computing with packet pointers takes CAP_PERFMON.
static __always_inline int follow_at(struct xdp_md *ctx, const __u32 base)
{
	__u32 zero = 0;
	struct cache *c = bpf_map_lookup_elem(&cache, &zero);
	if (!c || !*(volatile __u64 *)&c->on)
		return UNDECIDED;
	__u64 epoch = *(volatile __u64 *)&c->epoch;

	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *f = data + base;
	if (f + 42 > end)
		return UNDECIDED;
	// IPv4 without options, whole.
	if (U16(f + 12) != bpf_htons(ETH_P_IP) || *(__u8 *)(f + 14) != 0x45 || U16(f + 20) & bpf_htons(0x3fff))
		return UNDECIDED;
	__u8 proto = *(__u8 *)(f + 23);
	__u32 ip_len = bpf_ntohs(U16(f + 16)), ip_len_min;
	__u16 check;
	if (proto == IPPROTO_TCP) {
		if (f + 54 > end || *(__u8 *)(f + 47) & 2)   // a connection's first packet is looked at
			return UNDECIDED;
		void *tcp = f + 34;
		OPAQUE(tcp);
		check = U16(tcp + 16);
		ip_len_min = 40;
	} else if (proto == IPPROTO_UDP) {
		check = U16(f + 40);
		ip_len_min = 28;
	} else {
		return UNDECIDED;
	}
	__u32 outer_len = 0, tunnel = 0, vni = 0;
	__u8 relayed_ttl = 0, tos = *(__u8 *)(f + 15) & 3;
	if (base) {
		outer_len = bpf_ntohs(U16(data + 16));
		relayed_ttl = *(__u8 *)(data + 22) - 1;
		tunnel = U32(data + 26);
		vni = U32(data + 46);
		// A whole packet that ends where it says, a good VXLAN header (VNI 0 is between switches), and no
		// congestion to tell of (RFC 6040).
		if (!vni || U16(data + 20) & bpf_htons(0x3fff) || bpf_ntohs(U16(data + 38)) + 20 != outer_len ||
		    U32(data + 42) != bpf_htonl(0x08000000) || vni & bpf_htonl(0xff) ||
		    (*(__u8 *)(data + 15) & 3) != tos)
			return UNDECIDED;
	}

	// The reserved byte behind the VNI is zero: the protocol goes there.
	__u64 key[5] = {
		U64(f),
		U32(f + 8) | (__u64)U32(f + 34) << 32,
		U64(f + 26),
		ctx->ingress_ifindex | (__u64)(vni | bpf_htonl(proto)) << 32,
		tunnel,
	};
	__u64 x = key[0] * c->mix[0] + key[1] * c->mix[1] + key[2] * c->mix[2] + key[3] * c->mix[3] +
		  key[4] * c->mix[4];
	x ^= x >> 32;
	__u32 index = x * c->mix[5] >> (64 - SETS_BITS);
	struct set *set = bpf_map_lookup_elem(&flows, &index);
	if (!set)
		return UNDECIDED;
	struct slot *s = &set->way[0];
	if (!is(s, epoch, key)) {
		s = &set->way[1];
		if (!is(s, epoch, key))
			return UNDECIDED;
	}

	__u32 bits = s->bits;
	__u32 len = bpf_xdp_get_buff_len(ctx), inner = len - base;
	if (ip_len < ip_len_min || ip_len + 14 > inner || inner > s->len_max || (base && outer_len + 14 != len))
		return UNDECIDED;
	if (bits & BIT_ROUTED && *(__u8 *)(f + 22) <= 1)
		return UNDECIDED;
	if (bits & BIT_RELAYED && (!relayed_ttl || relayed_ttl == 255))
		return UNDECIDED;
	if (bits & BIT_UNMARKED && bpf_ntohs(check) == fold(s->pseudo + ip_len - 20))
		return UNDECIDED;

	int push = (bits & BIT_PUSH) != 0;
	if (base && !push)
		if (bpf_xdp_adjust_head(ctx, OUTER_LEN))
			return UNDECIDED;
	if (!base && push)
		if (bpf_xdp_adjust_head(ctx, -OUTER_LEN))
			return UNDECIDED;
	__sync_fetch_and_add(&s->hits, HIT + inner);

	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	int edits = bits & (BIT_ROUTED | BIT_NAT_SOURCE | BIT_NAT_DEST);
	int done = XDP_DROP;
	if (!push) {
		if (edits && !edit(data, end, s, bits, proto))
			goto stray;
	} else {
		void *inside = data + OUTER_LEN;
		OPAQUE(inside);
		if (edits && !edit(inside, end, s, bits, proto))
			goto stray;
		if (data + OUTER_LEN > end)
			goto stray;
		__u16 total = bpf_htons(inner + OUTER_LEN - 14);
		__u32 sum = s->outer_sum + total;
#pragma unroll
		for (int i = 0; i < 48; i += 8)
			U64(data + i) = U64(s->outer + i);
		U16(data + 48) = U16(s->outer + 48);
		U16(data + 14) |= bpf_htons(tos);
		sum += bpf_htons(tos);
		if (bits & BIT_RELAYED) {
			U16(data + 22) |= bpf_htons((__u16)relayed_ttl << 8);
			sum += bpf_htons((__u16)relayed_ttl << 8);
		}
		U16(data + 16) = total;
		U16(data + 24) = ~fold(sum);
		U16(data + 38) = bpf_htons(inner + OUTER_LEN - 34);
	}
	done = bpf_redirect_map(&outputs, s->out, XDP_DROP);
	if (done == XDP_REDIRECT)
		return done;
stray:
	__sync_fetch_and_add(&s->stray, 1);
	return XDP_DROP;
}

static __always_inline int follow(struct xdp_md *ctx, __u32 base)
{
	return base ? follow_at(ctx, OUTER_LEN) : follow_at(ctx, 0);
}
