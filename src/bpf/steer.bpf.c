/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Steer: which frames leave the kernel. A frame that was sent to this interface and is destined for a cluster address goes
 * to the AF_XDP ring of the queue it came in on, the time of its arrival in front of it; every other frame goes on to the
 * kernel, untouched.
 *
 * Nothing else is judged here. Whether the headers make sense is for the worker to say, which has a counter for each
 * answer; a frame too short to hold a destination address has none, and is the kernel's.
 */
#include "parse.h"

/* The cluster addresses: 4 bytes as in the packet -> present. The loader sizes both sets, and the rings. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __be32);
	__type(value, __u8);
} addresses_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct in6_addr);
	__type(value, __u8);
} addresses_v6 SEC(".maps");

/* Queue -> AF_XDP socket. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* Frames; in the order of steer::Counters. seen = passed + redirected + no_socket. */
struct counters {
	__u64 seen;
	__u64 passed;
	__u64 redirected;
	__u64 no_socket;
	__u64 unstamped;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

INLINE int to_cluster_address(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > end || !is_own(eth->h_dest))
		return 0;

	__be16 proto;
	__u32 at = find_ip(eth, end, &proto);
	if (proto == BE16(ETH_P_IP)) {
		struct iphdr ip;
		return !load(ctx, at, &ip, sizeof(ip)) && bpf_map_lookup_elem(&addresses_v4, &ip.daddr);
	}
	if (proto == BE16(ETH_P_IPV6)) {
		struct ipv6hdr ip;
		return !load(ctx, at, &ip, sizeof(ip)) && bpf_map_lookup_elem(&addresses_v6, &ip.daddr);
	}
	return 0;
}

/*
 * Metadata, and not room from bpf_xdp_adjust_head: with it the frame itself still begins where its descriptor points, in
 * copy mode (net/xdp/xsk.c, __xsk_rcv copies metadata and frame so) as in zero-copy mode, and the descriptor can be
 * transmitted as it is. The stamp is the 8 bytes before that.
 */
INLINE int stamp(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(__u64)))
		return -1;
	__u64 *arrival = (void *)(long)ctx->data_meta;
	if ((void *)(arrival + 1) > (void *)(long)ctx->data)
		return -1;
	*arrival = bpf_ktime_get_ns();
	return 0;
}

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct counters *count = bpf_map_lookup_elem(&counters, &zero);
	if (!count)
		return XDP_PASS;
	count->seen++;

	if (!to_cluster_address(ctx)) {
		count->passed++;
		return XDP_PASS;
	}
	if (stamp(ctx))
		count->unstamped++;

	/*
	 * Without a ring on this queue (one that was added while we run) the frame is dropped and counted. The kernel must not
	 * have it: it does not hold the address, and would route the frame back to where it came from, with a redirect.
	 */
	long action = bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);
	/* Sums and not branches: of these clang makes one add to a computed place, for which the verifier wants CAP_PERFMON. */
	count->redirected += action == XDP_REDIRECT;
	count->no_socket += action != XDP_REDIRECT;
	return action;
}

char _license[] SEC("license") = "Dual BSD/GPL";
