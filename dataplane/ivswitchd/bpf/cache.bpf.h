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

#define WAYS 2
#define SETS_BITS 13
#define OUTER_LEN 50
#define OUTPUTS 1025         // engine: limits::PORTS_MAX

// A count of hits and their bytes in one word, so that one atomic instruction adds both. User space reads the
// differences every quarter of a second, long before either part can wrap around.
#define HIT (1ULL << 38)

enum {
	BIT_ROUTED = 1,      // new MAC addresses, one hop less
	BIT_NAT_SOURCE = 2,
	BIT_NAT_DEST = 4,
	BIT_PUSH = 8,        // an outer header in front
	BIT_RELAYED = 16,    // with the received hop limit, less one
	BIT_UNMARKED = 32,   // the checksum may be unfinished
};

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
