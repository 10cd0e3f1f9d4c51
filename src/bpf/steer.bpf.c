/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Steer: which frames leave the kernel. A frame that was sent to this interface and is destined for a cluster address goes
 * to the AF_XDP ring of the queue it came in on, the time of its arrival in front of it; every other frame goes on to the
 * kernel, untouched.
 *
 * Nothing else is judged here. Whether the headers make sense is for the worker to say, which has a counter for each
 * answer; a frame too short to hold a destination address has none, and is the kernel's.
 *
 * With the net, frames of a queue whose worker is gone, or hangs, are dispatched here, by the same tables.
 */
#include "dispatch.h"

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

/* Prefixes of cluster addresses. They change one by one, and an address that is in one before and after is in one all the time. */
struct prefix_v4 {
	__u32 length;
	__be32 address;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_v4);
	__type(value, __u8);
} prefixes_v4 SEC(".maps");

struct prefix_v6 {
	__u32 length;
	struct in6_addr address;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_v6);
	__type(value, __u8);
} prefixes_v6 SEC(".maps");

/* Queue, by its number among those of all interfaces -> AF_XDP socket. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* Whether there are tables to dispatch by; the loader sets it. */
volatile const __u32 has_net;

/* A worker whose queue had no beat for longer hangs, in nanoseconds; 0: no beat is asked for. The loader sets it. */
volatile const __u64 net_after;

/* Frames that a ring holds; the loader sets it. */
volatile const __u64 ring_size;

/* Of a queue's worker: when it had a turn last, by bpf_ktime_get_ns, and how often it has taken frames out of its ring. */
struct beat {
	__u64 at;
	__u64 bursts;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct beat);
} beats SEC(".maps");

/* Of a queue: the frames that were redirected since its worker has taken some. Apart from what the worker writes. */
struct waiting {
	__u64 bursts;
	__u64 frames;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, struct waiting);
} waitings SEC(".maps");

/* Frames; in the order of steer::Counters. seen = passed + redirected + no_socket + by_net + refused. */
struct counters {
	__u64 seen;
	__u64 passed;
	__u64 redirected;
	__u64 no_socket;
	__u64 unstamped;
	__u64 by_net;
	__u64 refused;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* A queue that its interface did not have when the program was loaded: no ring has this number. */
#define NO_RING 0x7fffffff

/* The number of a frame's ring: that of its queue among those of all interfaces. */
ONCE int ring_of(struct xdp_md *ctx)
{
	__u32 index = ctx->ingress_ifindex, first = 0, end = others[0].first_queue;
#pragma unroll
	for (int i = 0; i < OTHERS; i++) {
		if (others[i].index == index) {
			first = others[i].first_queue;
			end = i + 1 < OTHERS ? others[i + 1].first_queue : 0;
		}
	}
	__u32 ring = first + ctx->rx_queue_index;
	return end && ring >= end ? NO_RING : ring;
}

COLD int to_cluster_address(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > end || !is_ours(ctx, eth->h_dest))
		return 0;

	__be16 proto;
	__u32 at = find_ip(eth, end, &proto);
	if (proto == BE16(ETH_P_IP)) {
		struct iphdr ip;
		if (load(ctx, at, &ip, sizeof(ip)))
			return 0;
		struct prefix_v4 prefix = { 32, ip.daddr };
		return bpf_map_lookup_elem(&addresses_v4, &ip.daddr) || bpf_map_lookup_elem(&prefixes_v4, &prefix);
	}
	if (proto == BE16(ETH_P_IPV6)) {
		struct ipv6hdr ip;
		if (load(ctx, at, &ip, sizeof(ip)))
			return 0;
		struct prefix_v6 prefix = { 128, ip.daddr };
		return bpf_map_lookup_elem(&addresses_v6, &ip.daddr) || bpf_map_lookup_elem(&prefixes_v6, &prefix);
	}
	return 0;
}

/*
 * Metadata, and not room from bpf_xdp_adjust_head: with it the frame itself still begins where its descriptor points, in
 * copy mode (net/xdp/xsk.c, __xsk_rcv copies metadata and frame so) as in zero-copy mode, and the descriptor can be
 * transmitted as it is. The stamp is the 8 bytes before that.
 */
INLINE int stamp(struct xdp_md *ctx, __u64 now)
{
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(__u64)))
		return -1;
	__u64 *arrival = (void *)(long)ctx->data_meta;
	if ((void *)(arrival + 1) > (void *)(long)ctx->data)
		return -1;
	*arrival = now;
	return 0;
}

/*
 * Whether the queue's worker would not get the frame: it has had no turn for long, or has taken nothing out of its ring since that was
 * filled. So of a process that is killed, and whose ring is there until the kernel has taken it apart, no more than that is lost.
 */
INLINE int hangs(__u32 queue, __u64 now)
{
	struct beat *beat = bpf_map_lookup_elem(&beats, &queue);
	struct waiting *waiting = bpf_map_lookup_elem(&waitings, &queue);
	if (!net_after || !beat || !waiting)
		return 0;
	__u64 bursts = beat->bursts;
	if (waiting->bursts != bursts) {
		waiting->bursts = bursts;
		waiting->frames = 0;
	}
	if (now > beat->at && now - beat->at > net_after)
		return 1;
	return waiting->frames++ >= ring_size;
}

/* In the place of a worker. */
ONCE int by_net(struct xdp_md *ctx)
{
	return dispatch(ctx, 1);
}

/*
 * Whether a list has the source of a frame, or it is beyond a limit: it is counted as the worker would have. What a list only counts is
 * the worker's; of limits a worker knows nothing. Returns the verdict, or 0.
 */
ONCE int refusal(struct xdp_md *ctx)
{
	__u32 zero = 0, core = bpf_get_smp_processor_id();
	struct control *table = bpf_map_lookup_elem(&control, &zero);
	if (!table)
		return 0;
	struct head *head = &table->heads[table->present % HEADS];
	if (!(head->flags & (LISTED | LIMITS | ODD_LIMITS)))
		return 0;
	__u32 at = core * TALLIES + head->tally;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &at);
	if (!tally)
		return 0;
	struct choice *choice = &tally->choice;
	*choice = (struct choice){ .asks_odd = (head->flags & ODD_LIMITS) != 0 };
	/* Whole words: a part of one, kept where a pointer was, takes CAP_PERFMON (kernel/bpf/verifier.c, check_stack_write_fixed_off). */
	__u64 verdict = find_service(ctx, head, choice), listed = UNLISTED;
	if (choice->service == NO_SERVICE_ID) {
		/* What else is wrong with it, the worker says. */
		verdict = verdict == LIMITED ? LIMITED : 0;
	} else if (!choice->returned && head->flags & LISTED) {
		listed = screen(head, choice);
	}
	asm volatile("" : "+r"(listed));
	if (listed == LISTED_DENIED) {
		verdict = DENIED;
	} else if (choice->service != NO_SERVICE_ID && !choice->returned && head->flags & LIMITS) {
		if (is_limited(head, choice))
			verdict = LIMITED;
		if (choice->limited)
			count_limited(head, core, choice->service, choice->limited);
	}
	if (choice->odd)
		settle_odd(head, choice, tally, verdict);
	if (!verdict)
		return 0;
	if (listed)
		count_listed(head, core, choice->service, listed);
	tally->frames[hidden(verdict, at) & 31]++;
	if (head->flags & WATCHED)
		note(ctx, head, verdict, choice);
	return verdict;
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
	if (has_net && refusal(ctx)) {
		count->refused++;
		return XDP_DROP;
	}
	__u64 now = bpf_ktime_get_ns();
	__u32 ring = has_others ? (__u32)ring_of(ctx) : ctx->rx_queue_index;
	if (has_net && hangs(ring, now)) {
		count->by_net++;
		return by_net(ctx);
	}
	/*
	 * Without a ring on this queue (its worker is gone, or it was added while we run) and without the net, the frame is dropped and
	 * counted. The kernel must not have it: it does not hold the address, and would route the frame back to where it came from, with a
	 * redirect.
	 */
	long action = bpf_redirect_map(&xsks, ring, XDP_DROP);
	if (has_net && action != XDP_REDIRECT) {
		count->by_net++;
		return by_net(ctx);
	}
	if (stamp(ctx, now))
		count->unstamped++;
	/* Sums and not branches: of these clang makes one add to a computed place, for which the verifier wants CAP_PERFMON. */
	count->redirected += action == XDP_REDIRECT;
	count->no_socket += action != XDP_REDIRECT;
	return action;
}

char _license[] SEC("license") = "Dual BSD/GPL";
