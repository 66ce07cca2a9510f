// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// Steering for AF_PACKET ports, by the rules of steer.bpf.c. A packet socket only listens, so each port has
// two programs, which share their maps and so always agree: one selects the frames that the socket receives,
// the other takes the same frames from the kernel.
//
// packet_all          tc ingress of a dedicated port: the kernel gets no frame, whether the daemon runs or not.
// packet_all_socket   its socket filter: the switch gets every frame.
// packet_shared       tc ingress of the uplink: the kernel gets frames that are not ours, and all while we are gone.
// packet_socket       its socket filter: the switch gets its frames.
// packet_closed       tc ingress of an uplink where nftables is missing: stays when the daemon is gone, and keeps
//                     floating IPs' packets from the kernel.
//
// Our frames then go to the kernel offload (cache_skb.bpf.c), if it is on: it may know the frame's flow.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define CONTEXT struct __sk_buff
#define load_bytes bpf_skb_load_bytes
#define STEER_RULES_ONLY
#include "steer.bpf.c"

#define TC_UNSPEC -1           // continue as if this program were not here
#define TC_SHOT 2

// Where the kernel offload continues, for a socket's filter and for tc.
enum { PLAIN, IN_TUNNEL, KINDS };

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, KINDS);
	__type(key, __u32);
	__type(value, __u32);
} follow_socket SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} follow_tc SEC(".maps");

// Enough for Ethernet, an IP header without options and the ports.
#define FIRST_BYTES 58

static __always_inline __u32 classify(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct config *c = bpf_map_lookup_elem(&config, &zero);
	// The IP header behind the Ethernet header is aligned, as the verifier requires on the stack.
	struct { __u16 pad; __u8 bytes[FIRST_BYTES]; } __attribute__((aligned(8))) first = {};
	// A VLAN tag outside the frame also counts: our underlay is untagged.
	if (!c || skb->vlan_present)
		return PASSED;
	// The shortest packet that could be ours is an IPv4 header and eight bytes.
	if (load_bytes(skb, 0, first.bytes, FIRST_BYTES) && load_bytes(skb, 0, first.bytes, 42))
		return PASSED;
	return classify_at(skb, first.bytes, first.bytes + FIRST_BYTES, c);
}

SEC("classifier")
int packet_all(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &follow_tc, 0);
	return TC_SHOT;
}

SEC("socket")
int packet_all_socket(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &follow_socket, PLAIN);
	return -1;
}

SEC("classifier")
int packet_shared(struct __sk_buff *skb)
{
	__u32 verdict = classify(skb);
	if (STAYS(verdict))
		return TC_UNSPEC;
	bpf_tail_call(skb, &follow_tc, 0);
	return TC_SHOT;
}

SEC("classifier")
int packet_closed(struct __sk_buff *skb)
{
	return classify(skb) == UP_REALITY ? TC_SHOT : TC_UNSPEC;
}

SEC("socket")
int packet_socket(struct __sk_buff *skb)
{
	__u32 verdict = classify(skb);
	__u64 *count = bpf_map_lookup_elem(&counters, &verdict);
	if (count)
		*count += 1;
	if (STAYS(verdict))
		return 0;
	if (verdict == UP_TUNNEL)
		bpf_tail_call(skb, &follow_socket, IN_TUNNEL);
	else
		bpf_tail_call(skb, &follow_socket, PLAIN);
	return -1;
}

