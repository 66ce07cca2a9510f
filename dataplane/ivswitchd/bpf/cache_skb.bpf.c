// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The kernel offload for AF_PACKET ports, where GSO packets and unfinished checksums stay unchanged: see
// cache.bpf.h. The programs of packet.bpf.c end in these by tail calls once they know that a frame is ours.
//
// follow_socket          the socket's filter: whether the socket receives the frame, or we follow its flow.
// follow_socket_tunnel   the same for a tunnel packet.
// follow_tc              tc ingress, which the kernel runs right after the filter: makes the edits.
//
// The filter leaves its finding to the tc program on the same processor. If that program finds it outdated,
// or the kernel cannot do the edits, the frame comes in once more with a mark, and the socket receives it.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "cache.bpf.h"

#define HEARD -1
#define NOT_HEARD 0
#define TC_SHOT 2
#define GO_UP 0x69767570     // the mark "ivup"
#define TUNNEL (1U << 31)
#define FOLLOWED 0x6976      // the mark by which track.bpf.c knows our frames

// From the filter to tc, reset one frame later: the slot's number plus one, and whether it is a tunnel packet.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} decided SEC(".maps");

// On the stack, where a filter must copy a frame's head, only aligned words may be read; all fields read here
// are at even offsets.
#define PAIR(p) (U16(p) | (__u32)U16((p) + 2) << 16)

// The kernel's own view of a frame. The loader fills in the fields' offsets in the running kernel.
struct sk_buff {
	unsigned char *head, *data;
	__u16 csum_start, csum_offset;
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));

// The kernel's function bpf_cast_to_kern_ctx; the loader fills in its number (program.rs), as aya knows only helpers.
static struct sk_buff *(*const kernels)(struct __sk_buff *) = (void *)0x6976;

#define CHECKSUM_PARTIAL 3

// The fields of a frame that are tested before its flow is looked up, and after.
struct facts {
	__u64 key[5];
	__u32 ip_len;
	__u32 ip_len_min;
	__u32 head;          // Ethernet, IP and transport header of the (inner) frame
	__u32 outer_len;     // IP length
	__u8 ttl;
	__u8 outer_ttl;
	__u8 tos;
	__u8 proto;
	__u16 check;         // of the (inner) transport header
};

// Reads the head of a frame whose (inner) Ethernet header is at `base`. False: the frame needs the pipeline.
static __always_inline int read(const __u8 *data, const __u32 base, __u32 ifindex, int tcp_fits, struct facts *a)
{
	const __u8 *f = data + base;
	if (U16(f + 12) != bpf_htons(ETH_P_IP) || f[14] != 0x45 || U16(f + 20) & bpf_htons(0x3fff))
		return 0;
	a->proto = f[23];
	a->ttl = f[22];
	a->tos = f[15] & 3;
	a->ip_len = bpf_ntohs(U16(f + 16));
	if (a->proto == IPPROTO_TCP) {
		if (!tcp_fits || f[47] & 2)   // the pipeline sees a connection's first packet
			return 0;
		a->ip_len_min = 40;
		a->head = 34 + (f[46] >> 4) * 4;
		a->check = U16(f + 50);
	} else if (a->proto == IPPROTO_UDP) {
		a->ip_len_min = 28;
		a->head = 42;
		a->check = U16(f + 40);
	} else {
		return 0;
	}
	__u32 tunnel = 0, vni = 0;
	if (base) {
		a->outer_len = bpf_ntohs(U16(data + 16));
		a->outer_ttl = data[22] - 1;
		tunnel = PAIR(data + 26);
		vni = PAIR(data + OUTER_VNI_AT);
		// It may not be a common tunnel packet at all.
		if (U16(data + 12) != bpf_htons(ETH_P_IP) || data[14] != 0x45 || data[23] != IPPROTO_UDP ||
		    !is_sound_tunnel(U16(data + 20), U16(data + OUTER_UDP_LEN_AT), a->outer_len,
				     PAIR(data + OUTER_VXLAN_AT), vni, data[15], a->tos))
			return 0;
	}
	a->key[0] = PAIR(f) | (__u64)PAIR(f + 4) << 32;
	a->key[1] = PAIR(f + 8) | (__u64)PAIR(f + 34) << 32;
	a->key[2] = PAIR(f + 26) | (__u64)PAIR(f + 30) << 32;
	a->key[3] = ifindex | (__u64)(vni | bpf_htonl(a->proto)) << 32;
	a->key[4] = tunnel;
	return 1;
}

// Whether the decision about the flow holds for this frame too.
static __always_inline int fits(struct __sk_buff *skb, const __u32 base, const struct facts *a, const struct slot *s)
{
	__u32 bits = s->bits, inner = skb->len - base, segment = inner;
	if (a->ip_len < a->ip_len_min || a->ip_len + 14 > inner || (base && a->outer_len + 14 != skb->len))
		return 0;
	if (skb->gso_size) {
		// One packet to be segmented, and not many packets in one tunnel GSO packet.
		segment = a->head + skb->gso_size;
		if (a->ip_len + 14 != inner)
			return 0;
		// A decapsulated packet keeps the mark of a tunnel, by which a UDP receiver would segment it at an outer header.
		if (a->proto == IPPROTO_UDP && base)
			return 0;
	}
	if (segment > s->len_max || inner + OUTER_LEN - 14 > 0xffff)
		return 0;
	if (bits & BIT_ROUTED && a->ttl <= 1)
		return 0;
	return !(bits & BIT_RELAYED && (!a->outer_ttl || a->outer_ttl == 255));
}

static __always_inline int follow_socket_at(struct __sk_buff *skb, const __u32 base)
{
	__u32 zero = 0;
	__u32 *decision = bpf_map_lookup_elem(&decided, &zero);
	struct cache *c = bpf_map_lookup_elem(&cache, &zero);
	if (!decision)
		return HEARD;
	*decision = 0;
	if (!c || !*(volatile __u64 *)&c->on || skb->vlan_present || skb->mark == GO_UP)
		return HEARD;
	__u64 epoch = *(volatile __u64 *)&c->epoch;
	struct { __u8 bytes[OUTER_LEN + 54]; } __attribute__((aligned(8))) first = {};
	int tcp_fits = !bpf_skb_load_bytes(skb, 0, first.bytes, base + 54);
	if (!tcp_fits && bpf_skb_load_bytes(skb, 0, first.bytes, base + 42))
		return HEARD;
	struct facts a = {};
	if (!read(first.bytes, base, skb->ifindex, tcp_fits, &a))
		return HEARD;
	__u32 index = set_of(c, a.key), way = 0;
	struct set *set = bpf_map_lookup_elem(&flows, &index);
	if (!set)
		return HEARD;
	struct slot *s = &set->way[0];
	if (!is(s, epoch, a.key)) {
		s = &set->way[1];
		way = 1;
		if (!is(s, epoch, a.key))
			return HEARD;
	}
	if (!fits(skb, base, &a, s))
		return HEARD;
	*decision = (index * WAYS + way + 1) | (base ? TUNNEL : 0);
	return NOT_HEARD;
}

SEC("socket")
int follow_socket(struct __sk_buff *skb)
{
	return follow_socket_at(skb, 0);
}

SEC("socket")
int follow_socket_tunnel(struct __sk_buff *skb)
{
	return follow_socket_at(skb, OUTER_LEN);
}

// Whether an unfinished checksum is the (inner) transport header's, and holds the pseudo-header's sum. A
// sender states its place outside the frame; a false statement would write two bytes elsewhere in the packet
// after its addresses were checked.
static __always_inline int true_of_itself(struct __sk_buff *skb, const __u32 base, const struct facts *a)
{
	struct sk_buff *k = kernels(skb);
	if (BPF_CORE_READ_BITFIELD(k, ip_summed) != CHECKSUM_PARTIAL)
		return !skb->gso_size;
	__u64 addresses = a->key[2];
	__u32 sum = (__u16)addresses + (__u16)(addresses >> 16) + (__u16)(addresses >> 32) + (__u16)(addresses >> 48);
	sum += bpf_htons(a->proto) + bpf_htons(a->ip_len - 20);
	return k->csum_start - (__u32)(k->data - k->head) == base + 34 &&
	       k->csum_offset == (a->proto == IPPROTO_TCP ? 16 : 6) && a->check == fold(sum);
}

static __always_inline int go_up(struct __sk_buff *skb)
{
	skb->mark = GO_UP;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

// Makes room for an outer header in front of the (inner) IP packet; each segment will get its own.
static __always_inline int make_room(struct __sk_buff *skb)
{
	__u64 flags = 0;
	if (skb->gso_size)
		flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
			BPF_F_ADJ_ROOM_ENCAP_L2(14) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	return bpf_skb_adjust_room(skb, OUTER_LEN, BPF_ADJ_ROOM_MAC, flags);
}

static __always_inline int act(struct __sk_buff *skb, __u32 number, const __u32 base)
{
	__u32 zero = 0, index = number / WAYS;
	struct cache *c = bpf_map_lookup_elem(&cache, &zero);
	struct set *set = bpf_map_lookup_elem(&flows, &index);
	if (!c || !set)
		return TC_SHOT;
	struct slot *s = number % WAYS ? &set->way[1] : &set->way[0];

	__u32 need = base + 54;
	if (skb->len < need)
		need = base + 42;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (data + base + 54 > end && bpf_skb_pull_data(skb, need))
		return go_up(skb);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	struct facts a = {};
	if (data + base + 54 <= end) {
		if (!read(data, base, skb->ifindex, 1, &a))
			return go_up(skb);
	} else if (data + base + 42 > end || !read(data, base, skb->ifindex, 0, &a)) {
		return go_up(skb);
	}
	if (!is(s, *(volatile __u64 *)&c->epoch, a.key) || !fits(skb, base, &a, s) || !true_of_itself(skb, base, &a))
		return go_up(skb);

	__u32 bits = s->bits, inner = skb->len - base;
	int push = (bits & BIT_PUSH) != 0;
	if (base && !push)
		if (bpf_skb_adjust_room(skb, -OUTER_LEN, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
			return go_up(skb);
	if (!base && push)
		if (make_room(skb))
			return go_up(skb);
	__sync_fetch_and_add(&s->hits, HIT + inner);

	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	void *f = data;
	if (push) {
		if (data + OUTER_LEN > end)
			goto stray;
		__u16 total = bpf_htons(inner + OUTER_LEN - 14);
		__u32 sum = s->outer_sum + total + bpf_htons(a.tos);
#pragma unroll
		for (int i = 0; i < 48; i += 8)
			U64(data + i) = U64(s->outer + i);
		U16(data + 48) = U16(s->outer + 48);
		U16(data + 14) |= bpf_htons(a.tos);
		if (bits & BIT_RELAYED) {
			U16(data + 22) |= bpf_htons((__u16)a.outer_ttl << 8);
			sum += bpf_htons((__u16)a.outer_ttl << 8);
		}
		U16(data + 16) = total;
		U16(data + 24) = ~fold(sum);
		U16(data + OUTER_UDP_LEN_AT) = bpf_htons(inner + OUTER_LEN - OUTER_UDP_AT);
		f = data + OUTER_LEN;
	}
	OPAQUE(f);
	if (f + 42 > end)
		goto stray;
	// The room is made and taken behind the first MAC addresses: the (inner) frame's are elsewhere.
	if (bits & BIT_ROUTED) {
		U64(f) = U64(s->macs);
		U32(f + 8) = U32(s->macs + 8);
		*(__u8 *)(f + 22) -= 1;
	} else {
		U64(f) = a.key[0];
		U32(f + 8) = a.key[1];
	}
	U16(f + 12) = bpf_htons(ETH_P_IP);
	U16(f + 24) = update(U16(f + 24), s->ip_delta);
	if (bits & (BIT_NAT_SOURCE | BIT_NAT_DEST)) {
		__be32 before, after = s->nat;
		if (bits & BIT_NAT_SOURCE) {
			void *source = f + 26;
			OPAQUE(source);
			before = U32(source);
			U32(source) = after;
		} else {
			before = U32(f + 30);
			U32(f + 30) = after;
		}
		// This call handles a finished and an unfinished checksum, and UDP without one.
		__u32 at = (push ? OUTER_LEN : 0) + (a.proto == IPPROTO_TCP ? 50 : 40);
		__u64 flags = BPF_F_PSEUDO_HDR | 4 | (a.proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0);
		if (bpf_l4_csum_replace(skb, at, before, after, flags))
			goto stray;
	}
	skb->tc_index = FOLLOWED;
	return bpf_redirect(s->ifindex, 0);
stray:
	__sync_fetch_and_add(&s->stray, 1);
	return TC_SHOT;
}

SEC("classifier")
int follow_tc(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u32 *decision = bpf_map_lookup_elem(&decided, &zero);
	if (!decision || !*decision)
		return TC_SHOT;
	__u32 number = *decision;
	*decision = 0;
	if (number & TUNNEL)
		return act(skb, (number & ~TUNNEL) - 1, OUTER_LEN);
	return act(skb, number - 1, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
