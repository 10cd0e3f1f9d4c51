/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pktgen: sends frames of many clients to a cluster address. The kernel runs it on frames of its own making (BPF_PROG_TEST_RUN
 * with BPF_F_TEST_XDP_LIVE_FRAMES): each run fills one in and redirects it to the interface, or finds that none is due yet
 * and drops it, which gives the page back. So the schedule is kept here, to the length of a run, and not by whoever makes the
 * system call.
 *
 * A page comes back as the last receiver left it. Hence every byte is written every time.
 */
#include "pktgen.h"

volatile const __u64 ifindex;
/* Of the first frame; the others follow at a distance of sender_count. */
volatile const __u64 first_number;
/* Between two of them: nanoseconds and 2^-32 of them. 0: as fast as it goes. */
volatile const __u64 interval_ns;
volatile const __u64 interval_fraction;

/* There is one sender to a program, and nobody else runs it. */
struct sender {
	/* Frames handed over. */
	__u64 sent;
	__u64 limit;
	/* When to stop, CLOCK_MONOTONIC; 0 until it may begin. */
	__u64 until;
	/* When the next frame is due; when the first was, or went if there is no schedule; and when the last one went. */
	__u64 due;
	__u64 due_fraction;
	__u64 first;
	__u64 last;
	/* Whether it was run with nothing to send. */
	__u64 waits;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sender);
} senders SEC(".maps");

/* How late frames were, by the schedule. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct times);
} lags SEC(".maps");

/* 0: none is due. Else when it was. */
INLINE __u64 due(struct sender *sender)
{
	__u64 now = bpf_ktime_get_ns();
	if (sender->sent >= sender->limit || now >= sender->until) {
		sender->waits = 1;
		return 0;
	}
	__u64 stamp = now;
	if (interval_ns || interval_fraction) {
		stamp = sender->due;
		if (now < stamp)
			return 0;
		__u32 zero = 0;
		struct times *lag = bpf_map_lookup_elem(&lags, &zero);
		if (lag)
			record(lag, now - stamp);
		__u64 fraction = sender->due_fraction + interval_fraction;
		sender->due_fraction = (__u32)fraction;
		sender->due = stamp + interval_ns + (fraction >> 32);
	}
	if (!sender->sent)
		sender->first = stamp;
	sender->last = now;
	return stamp;
}

INLINE int copy_head(const struct template *t, __u64 *to, void *end, int words)
{
	if ((void *)(to + words) > end)
		return -1;
	for (int i = 0; i < words; i++)
		to[i] = t->head[i];
	return 0;
}

INLINE void *write_trailer(void *data, void *end, __u64 size, __u64 number, __u64 stamp)
{
	void *trailer = trailer_of(data, size);
	if (trailer + TRAILER > end)
		return 0;
	RUN(trailer) = BE32(run_id);
	NUMBER_HIGH(trailer) = BE16((__u16)(number >> 32));
	NUMBER_LOW(trailer) = BE32((__u32)number);
	STAMP(trailer) = be64(stamp);
	return trailer;
}

/* The head may reach into the trailer, and so is written first. */
INLINE int write_v4(const struct template *t, void *data, void *end, __u64 size, __u64 number, __u64 stamp)
{
	struct iphdr *ip = data + ETH_HLEN;
	if (copy_head(t, data, end, V4_HEAD / 8))
		return -1;
	__be32 source = BE32((__u32)(t->first + client_of(number)));
	ip->saddr = source;
	ip->check = ~fold(t->ip_sum + source);
	void *trailer = write_trailer(data, end, size, number, stamp);
	if (!trailer)
		return -1;
	*checksum_place(t, ip + 1) = checksum(t, source, trailer);
	return 0;
}

INLINE int write_v6(const struct template *t, void *data, void *end, __u64 size, __u64 number, __u64 stamp)
{
	struct ipv6hdr *ip = data + ETH_HLEN;
	if (copy_head(t, data, end, V6_HEAD / 8))
		return -1;
	__u64 halves[2] = {be64(t->first_high), be64(t->first + client_of(number))};
	__builtin_memcpy(&ip->saddr, halves, sizeof(halves));
	void *trailer = write_trailer(data, end, size, number, stamp);
	if (!trailer)
		return -1;
	*checksum_place(t, ip + 1) = checksum(t, sum64(halves[0]) + sum64(halves[1]), trailer);
	return 0;
}

INLINE int write(struct xdp_md *ctx, const struct template *t, __u64 number, __u64 stamp)
{
	__u32 zero = 0;
	__u64 size = t->size, length = ctx->data_end - ctx->data;
	if (size < V4_HEAD || size > MAX_FRAME)
		return -1;
	if (length != size && bpf_xdp_adjust_tail(ctx, (int)size - (int)length))
		return -1;
	__u32 head = t->v6 ? V6_HEAD : V4_HEAD, filler_end = size - TRAILER;
	if (filler_end > head) {
		struct filler *middle = bpf_map_lookup_elem(&filler, &zero);
		__u32 count = filler_end - head;
		if (!middle || count > MAX_FRAME - V6_HEAD || bpf_xdp_store_bytes(ctx, head, (void *)middle + head, count))
			return -1;
	}
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	return t->v6 ? write_v6(t, data, end, size, number, stamp) : write_v4(t, data, end, size, number, stamp);
}

SEC("xdp")
int pktgen(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct sender *sender = bpf_map_lookup_elem(&senders, &zero);
	if (!sender)
		return XDP_ABORTED;
	__u64 stamp = due(sender);
	if (!stamp)
		return XDP_DROP;
	__u64 number = first_number + sender->sent++ * sender_count;
	struct template *t = template_of(number);
	if (!t || write(ctx, t, number, stamp))
		return XDP_ABORTED;
	return bpf_redirect(ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
