// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The kernel offload by XDP: see cache.bpf.h.

#include "cache.bpf.h"

#define UNDECIDED -1

// Translates and routes the packet whose Ethernet header is at `f`. False: not possible.
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
		U16(f + 40) = sum ? sum : 0xffff;   // zero would mean no checksum (RFC 768)
	}
	return 1;
}

// Applies the decision about the packet's flow. `base`: the offset of its (inner) Ethernet header, behind a
// common tunnel header or 0. UNDECIDED: the packet is unchanged.
//
// Every field is read at a constant offset, since computing with packet pointers takes CAP_PERFMON.
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
	// IPv4 without options, not fragmented.
	if (U16(f + 12) != bpf_htons(ETH_P_IP) || *(__u8 *)(f + 14) != 0x45 || U16(f + 20) & bpf_htons(0x3fff))
		return UNDECIDED;
	__u8 proto = *(__u8 *)(f + 23);
	__u32 ip_len = bpf_ntohs(U16(f + 16)), ip_len_min;
	__u16 check;
	if (proto == IPPROTO_TCP) {
		if (f + 54 > end || *(__u8 *)(f + 47) & 2)   // the pipeline sees a connection's first packet
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
		vni = U32(data + OUTER_VNI_AT);
		if (!is_sound_tunnel(U16(data + 20), U16(data + OUTER_UDP_LEN_AT), outer_len, U32(data + OUTER_VXLAN_AT),
				     vni, *(__u8 *)(data + 15), tos))
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
	__u32 index = set_of(c, key);
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
		U16(data + OUTER_UDP_LEN_AT) = bpf_htons(inner + OUTER_LEN - OUTER_UDP_AT);
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
