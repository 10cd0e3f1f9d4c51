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

volatile const __u32 ifindex;
/* Between two frames: nanoseconds and 2^-32 of them. 0: as fast as it goes. */
volatile const __u32 interval_ns;
volatile const __u32 interval_fraction;

/* There is one sender, which nobody shares. */
struct sender {
	/* Frames handed over; also the next one's number. */
	__u64 sent;
	__u64 limit;
	/* When to stop, CLOCK_MONOTONIC. */
	__u64 until;
	/* When the next frame is due, and when the first and the last one went. */
	__u64 due;
	__u64 due_fraction;
	__u64 first;
	__u64 last;
	/* How late frames were, by the schedule. */
	struct times lag;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sender);
} senders SEC(".maps");

/* 0: none is due. Else when it was. */
INLINE __u64 due(struct sender *sender)
{
	__u64 now = bpf_ktime_get_ns();
	if (sender->sent >= sender->limit || now >= sender->until)
		return 0;
	__u64 stamp = now;
	if (interval_ns || interval_fraction) {
		stamp = sender->due;
		if (now < stamp)
			return 0;
		record(&sender->lag, now - stamp);
		__u64 fraction = sender->due_fraction + interval_fraction;
		sender->due_fraction = (__u32)fraction;
		sender->due = stamp + interval_ns + (fraction >> 32);
	}
	if (!sender->sent)
		sender->first = now;
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

/* The client's address; its sum. */
INLINE __u64 write_client(const struct template *t, void *data, __u64 client)
{
	if (t->v6) {
		struct ipv6hdr *ip = data + ETH_HLEN;
		__u64 high = be64(t->first_high), low = be64(t->first + client);
		__builtin_memcpy(&ip->saddr.in6_u.u6_addr8[0], &high, 8);
		__builtin_memcpy(&ip->saddr.in6_u.u6_addr8[8], &low, 8);
		return sum64(high) + sum64(low);
	}
	struct iphdr *ip = data + ETH_HLEN;
	ip->saddr = BE32((__u32)(t->first + client));
	ip->check = ~fold(t->ip_sum + ip->saddr);
	return ip->saddr;
}

INLINE int fill(struct xdp_md *ctx, const struct template *t, __u64 number, __u64 stamp)
{
	__u32 zero = 0;
	__u64 size = t->size;
	if (size < V4_HEAD || size > MAX_FRAME)
		return -1;
	__u64 length = ctx->data_end - ctx->data;
	if (length != size && bpf_xdp_adjust_tail(ctx, (int)size - (int)length))
		return -1;
	__u32 head = t->v6 ? V6_HEAD : V4_HEAD;
	__u64 trailer_at = size - TRAILER;
	struct filler *middle = bpf_map_lookup_elem(&filler, &zero);
	if (!middle)
		return -1;
	if (trailer_at > head) {
		__u64 count = trailer_at - head;
		if (count > MAX_FRAME - V6_HEAD)
			return -1;
		if (bpf_xdp_store_bytes(ctx, head, (void *)middle + head, count))
			return -1;
	}

	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (t->v6 ? copy_head(t, data, end, V6_HEAD / 8) : copy_head(t, data, end, V4_HEAD / 8))
		return -1;
	__u64 source = write_client(t, data, client_of(number));

	void *trailer = trailer_of(data, size);
	if (trailer + TRAILER > end)
		return -1;
	RUN(trailer) = BE32(run_id);
	NUMBER_HIGH(trailer) = BE16((__u16)(number >> 32));
	NUMBER_LOW(trailer) = BE32((__u32)number);
	STAMP(trailer) = be64(stamp);
	__u16 sum = checksum(t, source, trailer);
	/* The offset of the checksum in the header is 6 (UDP) or 16 (TCP). */
	if (t->v6) {
		__u16 *place = data + ETH_HLEN + sizeof(struct ipv6hdr) + (t->tcp ? 16 : 6);
		*place = sum;
	} else {
		__u16 *place = data + ETH_HLEN + sizeof(struct iphdr) + (t->tcp ? 16 : 6);
		*place = sum;
	}
	return 0;
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
	__u64 number = sender->sent++;
	struct template *t = template_of(number);
	if (!t || fill(ctx, t, number, stamp))
		return XDP_ABORTED;
	return bpf_redirect(ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
