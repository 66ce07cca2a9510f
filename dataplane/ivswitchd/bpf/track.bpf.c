// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Notes the flows in which the rVM's kernel itself sends by the uplink from a reality address, so that
// packets that come back in them go to the kernel: see own.bpf.h. It runs at tc egress and changes no packet.
//
// track       sees all packets that the kernel sends; it recognises the switch's packets and leaves them out.
#define TRACK_ONLY
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define CONTEXT struct __sk_buff
#define load_bytes bpf_skb_load_bytes
#define STEER_RULES_ONLY
#include "steer.bpf.c"

#define GO_ON -1               // TC_ACT_UNSPEC, TCX_NEXT: continue as if this program were not here
#define FAMILY_PACKET 17
#define SEND_AS_IS 255         // IPPROTO_RAW
#define FOLLOWED 0x6976        // the mark that cache_skb.bpf.c sets on the switch's frames

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16

static __always_inline int is_from_switch(struct __sk_buff *skb)
{
	if (skb->tc_index == FOLLOWED)
		return 1;
	struct bpf_sock *sk = skb->sk;
	if (!sk)
		return 0;
	// Frames sent unchanged: an AF_PACKET port's, and packets that the switch hands to the kernel for the
	// resolution of their next hop.
	if (sk->family == FAMILY_PACKET)
		return 1;
	sk = bpf_sk_fullsock(sk);
	return sk && sk->protocol == SEND_AS_IS;
}

#define FOR_EACH_WAY(what) \
	what(0); what(1); what(2); what(3); what(4); what(5); what(6); what(7)
_Static_assert(OWN_WAYS == 8, "as many as FOR_EACH_WAY says");

#define NOTE_INTO(way)                                      \
	do {                                                \
		if (oldest != (way))                        \
			break;                              \
		APART(way);                                 \
		set->until[way] = 0;                        \
		set->key[way] = *flow;                      \
		set->closing[way] = closing;                \
		set->tag[way] = tag;                        \
		set->until[way] = now + life;               \
	} while (0)

#define NOTE_AGAIN(way)                                                                     \
	do {                                                                                \
		if (set->tag[way] == tag && set->until[way] && own_same(&set->key[way], flow)) { \
			APART(way);                                                         \
			if (syn)                                                            \
				set->closing[way] = 0;                                      \
			else if (closing && !set->closing[way])                             \
				set->closing[way] = 1;                                      \
			if (set->closing[way])                                              \
				life = LIFE_TCP_CLOSING;                                    \
			if (set->until[way] != now + life)                                  \
				set->until[way] = now + life;                               \
			return;                                                             \
		}                                                                           \
	} while (0)

static __noinline void note(const struct own_key *flow, const struct config *c, __u32 life, int syn, int closing)
{
	__u64 hash = own_hash(flow, c->mix);
	__u32 index = hash >> (64 - OWN_SETS_BITS), tag = hash, now = own_now();
	struct own_set *set = bpf_map_lookup_elem(&own, &index);
	if (!set)
		return;
	FOR_EACH_WAY(NOTE_AGAIN);
	if (__sync_val_compare_and_swap(&set->writing, 0, 1))
		return;
	int oldest = 0;
	__u32 first = set->until[0];
#pragma unroll
	for (int way = 1; way < OWN_WAYS; way++)
		if ((__s32)(set->until[way] - first) < 0) {
			first = set->until[way];
			oldest = way;
		}
	FOR_EACH_WAY(NOTE_INTO);
	*(volatile __u32 *)&set->writing = 0;
}

SEC("classifier")
int track(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct config *c = bpf_map_lookup_elem(&config, &zero);
	if (!c || !c->own || skb->vlan_present || is_from_switch(skb))
		return GO_ON;
	int v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (!v6 && skb->protocol != bpf_htons(ETH_P_IP))
		return GO_ON;
	struct packet p = {};
	struct own_key flow = {};
	struct steering_key key = {};
	if (!read_ip(skb, sizeof(struct ethhdr), v6, &p) || !p.first)
		return GO_ON;
	__builtin_memcpy(key.addr, p.source, 16);
	__builtin_memcpy(flow.local, p.source, 16);
	__builtin_memcpy(flow.remote, p.dest, 16);
	flow.proto = key.proto = p.proto;
	key.prefixlen = BITS_PROTO;
	__u32 life = LIFE_OTHER;
	int syn = 0, closing = 0;
	if (has_ports(&p)) {
		struct ports ports;
		if (load_bytes(skb, p.l4, &ports, sizeof ports))
			return GO_ON;
		// Tunnel packets belong to the switch, whichever program sends them.
		if (p.proto == IPPROTO_UDP && (ports.dest == c->tunnel_port || ports.source == c->tunnel_port))
			return GO_ON;
		flow.local_port = key.port = ports.source;
		flow.remote_port = ports.dest;
		key.prefixlen = BITS_PORT;
		life = LIFE_UDP;
		if (p.proto == IPPROTO_TCP) {
			__u8 flags;
			// A reset may answer any packet, so it does not begin a flow.
			if (load_bytes(skb, p.l4 + 13, &flags, 1) || flags & TCP_RST)
				return GO_ON;
			syn = flags & TCP_SYN;
			closing = flags & TCP_FIN;
			life = closing ? LIFE_TCP_CLOSING : flags & TCP_ACK && !syn ? LIFE_TCP : LIFE_TCP_NEW;
		}
	} else if (p.proto == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		__u8 type;
		// Among ICMP messages only an echo request begins a flow.
		if (load_bytes(skb, p.l4, &type, 1) || type != (v6 ? 128 : 8) ||
		    !read_echo(skb, p.l4, &flow.remote_port))
			return GO_ON;
		flow.local_port = flow.remote_port;
		life = LIFE_ECHO;
	}
	// Packets that stay with the kernel anyway need no entry; so clients of the rVM's services make none.
	__u32 *up = bpf_map_lookup_elem(&steering, &key);
	if (up && *up)
		note(&flow, c, life, syn, closing);
	return GO_ON;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
