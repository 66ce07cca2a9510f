// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// The rVM's own flows: packets that its kernel itself has recently sent from a reality address. Packets that
// come back in these flows go to the kernel, although all others to that address go to a floating IP. The
// paper's DNAT does the same: it sees only new connections.
//
// track.bpf.c notes a flow when the kernel sends (tc egress), and user space notes the kernel's connected
// sockets at the start; steer.bpf.c looks flows up on ingress. A flow counts if the kernel sent in it, on
// anyone's behalf: a connection, a request by a UDP socket that is connected or not, an echo request, a
// masqueraded guest. A socket that only listens has sent no packet, so it has no flow. Only the kernel's
// packets make entries; tunnel packets and packets that the switch sends make none. So if an iVM and the
// kernel use the same five-tuple, it is the kernel's.
//
// The table is set-associative, in memory that user space maps. In a full set the flow that would end first makes room:
// a request before a connection. Writers of a set take turns; one that finds another writing gives up, and notes the
// flow with its next packet. A reader that meets a writer may miss a flow for one packet.

#define OWN_WAYS 8
#define OWN_SETS_BITS 13
#define FRAGMENT_WAYS 4
#define FRAGMENT_SETS_BITS 8

// Ticks of 2^30 ns, a bit more than a second.
#define OWN_TICK_BITS 30

// How long a flow lasts after the kernel's last packet in it.
enum {
	LIFE_UDP = 170,          // RFC 4787 REQ-5: two minutes at least
	LIFE_TCP_NEW = 170,      // a SYN is sent again for about two minutes
	LIFE_TCP = 6930,         // RFC 5382 REQ-5: two hours and four minutes
	LIFE_TCP_CLOSING = 112,  // TIME_WAIT, and the last retransmissions
	LIFE_ECHO = 56,
	LIFE_OTHER = 560,
	LIFE_FRAGMENT = 28,      // as long as the kernel waits for the other fragments
};

// Addresses (IPv4 as ::ffff:a.b.c.d), ports (for an echo, its identifier twice), protocol. For a fragment,
// its identification in place of ports, and the mark of a fragment.
struct own_key {
	__u8 remote[16];
	__u8 local[16];
	__be16 remote_port;
	__be16 local_port;
	__u8 proto;
	__u8 fragment;
	__u16 zero;
} __attribute__((aligned(8)));

// A set's first 64 bytes tell whether a flow may be in it.
struct own_set {
	__u32 tag[OWN_WAYS];
	__u32 until[OWN_WAYS];   // tick; 0: free
	struct own_key key[OWN_WAYS];
	__u32 closing[OWN_WAYS]; // TCP: the kernel has sent a FIN
	__u32 writing;
	__u32 zero[7];
};

struct fragment_set {
	__u32 tag[FRAGMENT_WAYS];
	__u32 until[FRAGMENT_WAYS];
	struct own_key key[FRAGMENT_WAYS];
	__u32 writing;
	__u32 zero[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << OWN_SETS_BITS);
	__type(key, __u32);
	__type(value, struct own_set);
} own SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << FRAGMENT_SETS_BITS);
	__type(key, __u32);
	__type(value, struct fragment_set);
} own_fragments SEC(".maps");

static __always_inline __u32 own_now(void)
{
	return bpf_ktime_get_ns() >> OWN_TICK_BITS;
}

// Mixes in secret odd numbers. The upper half chooses the set, the lower is the tag.
static __always_inline __u64 own_hash(const struct own_key *key, const __u64 *mix)
{
	const __u64 *k = (const void *)key;
	__u64 x = k[0] * mix[0] + k[1] * mix[1] + k[2] * mix[2] + k[3] * mix[3] + k[4] * mix[4];
	x ^= x >> 32;
	x *= mix[5];
	return x ^ x >> 29;
}

static __always_inline int own_same(const struct own_key *a, const struct own_key *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;
	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

// Keeps the compiler from merging the code of the ways: the merged code would compute an offset, and that
// takes CAP_PERFMON to load.
#define APART(way) asm volatile("" : : "i"(way))

#define OWN_LIVES(set, way, now) ((__s32)((set)->until[way] - (now)) > 0)

// Whether the kernel sends in this flow.
static __always_inline int own_has(const struct own_key *key, const __u64 *mix)
{
	__u64 hash = own_hash(key, mix);
	__u32 index = hash >> (64 - OWN_SETS_BITS), tag = hash, now = own_now();
	struct own_set *set = bpf_map_lookup_elem(&own, &index);
	if (!set)
		return 0;
#pragma unroll
	for (int way = 0; way < OWN_WAYS; way++)
		if (set->tag[way] == tag && OWN_LIVES(set, way, now) && own_same(&set->key[way], key))
			return 1;
	return 0;
}

static __always_inline int own_has_fragment(const struct own_key *key, const __u64 *mix)
{
	__u64 hash = own_hash(key, mix);
	__u32 index = hash >> (64 - FRAGMENT_SETS_BITS), tag = hash, now = own_now();
	struct fragment_set *set = bpf_map_lookup_elem(&own_fragments, &index);
	if (!set)
		return 0;
#pragma unroll
	for (int way = 0; way < FRAGMENT_WAYS; way++)
		if (set->tag[way] == tag && OWN_LIVES(set, way, now) && own_same(&set->key[way], key))
			return 1;
	return 0;
}

// Notes a fragmented packet: if its first fragment is the kernel's, so are the others. Only those behind it are known.
static __always_inline void own_note_fragment(const struct own_key *key, const __u64 *mix)
{
	__u64 hash = own_hash(key, mix);
	__u32 index = hash >> (64 - FRAGMENT_SETS_BITS), now = own_now();
	struct fragment_set *set = bpf_map_lookup_elem(&own_fragments, &index);
	if (!set || __sync_val_compare_and_swap(&set->writing, 0, 1))
		return;
#define FRAGMENT_INTO(way)                                  \
	do {                                                \
		APART(way);                                 \
		set->until[way] = 0;                        \
		set->key[way] = *key;                       \
		set->tag[way] = hash;                       \
		set->until[way] = now + LIFE_FRAGMENT;      \
	} while (0)
	// The oldest is the one that ends first.
	int oldest = 0;
	__u32 first = set->until[0];
#pragma unroll
	for (int way = 1; way < FRAGMENT_WAYS; way++)
		if ((__s32)(set->until[way] - first) < 0) {
			first = set->until[way];
			oldest = way;
		}
	if (oldest == 0)
		FRAGMENT_INTO(0);
	else if (oldest == 1)
		FRAGMENT_INTO(1);
	else if (oldest == 2)
		FRAGMENT_INTO(2);
	else
		FRAGMENT_INTO(3);
	*(volatile __u32 *)&set->writing = 0;
}
