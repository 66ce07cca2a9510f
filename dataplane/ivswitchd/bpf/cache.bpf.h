// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The kernel offload: packets of flows that the switch has already decided about are rewritten and redirected
// in the kernel, by XDP (cache_xdp.bpf.h) or, where GSO packets pass, by tc (cache_skb.bpf.c).
//
// The programs decide nothing. A flow's packets are alike in every byte that the switch reads to decide, and the switch
// has computed the edits (engine/src/forward/flow.rs). The programs check the fields that may differ between packets
// and would change the decision; a packet that fails goes up like any other, untouched.
//
// User space writes slots and reads their counts through the mapping. It writes a slot only while no program
// can be reading it: between two flows the slot's epoch is 0, and an RCU grace period passes
// (ports/afxdp/cache.rs). So a program that has seen the right epoch may use the slot to its end.

#include <stddef.h>
#include "layout.h"

// A count of hits and their bytes in one word, so that one atomic instruction adds both. User space reads the
// differences every quarter of a second, long before either part can wrap around.
#define HIT (1ULL << HIT_SHIFT)

struct cache {
	__u64 epoch;         // valid flows have this epoch
	__u64 mix[6];        // secret odd numbers
	__u64 on;
};

struct slot {
	__u64 epoch;
	__u64 key[5];
	__u16 out;           // index in `outputs`
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
	__u32 ifindex;       // of `out`, for tc
	// 128
	__u8 macs[12];
	__u8 zero3[52];
	// 192: written by the programs
	__u64 hits;
	__u64 stray;         // hits whose output was gone
	__u64 zero4[6];
};

// The daemon writes and reads these fields by their offsets.
#define FIELD_AT(type, field, at) \
	_Static_assert(offsetof(struct type, field) == (at), "layout.h: " #type "." #field)
FIELD_AT(cache, epoch, CACHE_EPOCH_AT);
FIELD_AT(cache, mix, CACHE_MIX_AT);
FIELD_AT(cache, on, CACHE_ON_AT);
_Static_assert(sizeof(struct cache) == CACHE_LEN, "layout.h: cache");
FIELD_AT(slot, epoch, SLOT_EPOCH_AT);
FIELD_AT(slot, key, SLOT_KEY_AT);
FIELD_AT(slot, out, SLOT_OUT_AT);
FIELD_AT(slot, len_max, SLOT_LEN_MAX_AT);
FIELD_AT(slot, bits, SLOT_BITS_AT);
FIELD_AT(slot, pseudo, SLOT_PSEUDO_AT);
FIELD_AT(slot, outer_sum, SLOT_OUTER_SUM_AT);
FIELD_AT(slot, outer, SLOT_OUTER_AT);
FIELD_AT(slot, ip_delta, SLOT_IP_DELTA_AT);
FIELD_AT(slot, l4_delta, SLOT_L4_DELTA_AT);
FIELD_AT(slot, nat, SLOT_NAT_AT);
FIELD_AT(slot, ifindex, SLOT_IFINDEX_AT);
FIELD_AT(slot, macs, SLOT_MACS_AT);
FIELD_AT(slot, hits, SLOT_HITS_AT);
FIELD_AT(slot, stray, SLOT_STRAY_AT);
_Static_assert(sizeof(struct slot) == SLOT_LEN, "layout.h: slot");

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

// Hides a pointer's origin from the compiler, which would otherwise merge two branches with constant offsets
// into one with a variable offset; that takes CAP_PERFMON to load.
#define OPAQUE(p) asm volatile("" : "+r"(p))

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// RFC 1624, eqn. 3. Byte order does not matter as long as it is the same everywhere (RFC 1071).
static __always_inline __u16 update(__u16 check, __u16 delta)
{
	return ~fold((__u16)~check + (__u32)delta);
}

// The index of a key's set.
static __always_inline __u32 set_of(const struct cache *c, const __u64 *key)
{
	__u64 x = key[0] * c->mix[0] + key[1] * c->mix[1] + key[2] * c->mix[2] + key[3] * c->mix[3] +
		  key[4] * c->mix[4];
	x ^= x >> 32;
	return x * c->mix[5] >> (64 - SETS_BITS);
}

static __always_inline int is(const struct slot *s, __u64 epoch, const __u64 *key)
{
	return s->epoch == epoch && !((s->key[0] ^ key[0]) | (s->key[1] ^ key[1]) | (s->key[2] ^ key[2]) |
				      (s->key[3] ^ key[3]) | (s->key[4] ^ key[4]));
}

// Whether the tunnel headers of a packet that goes to our tunnel port over IPv4 without options are those of a whole
// packet of the stated length with a good VXLAN header, for a network (VNI 0 is between switches), and without a
// congestion mark to pass on (RFC 6040). `ip_len`: of the outer packet; `tos`, `inner_ecn`: of the outer and inner one.
static __always_inline int is_sound_tunnel(__u32 fragment, __be16 udp_len, __u32 ip_len, __be32 first, __be32 vni,
					   __u8 tos, __u8 inner_ecn)
{
	return vni && !(fragment & bpf_htons(0x3fff)) && bpf_ntohs(udp_len) + 20 == ip_len &&
	       first == bpf_htonl(VXLAN_FIRST_WORD) && !(vni & bpf_htonl(VXLAN_VNI_RESERVED)) &&
	       (tos & 3) == inner_ecn;
}
