/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sink: takes the frames of one run of `oneip pktgen` off an interface, counts them, and times them. A frame is ours by the
 * run's number in its trailer. Which frame it is says the trailer too, and from that follows every byte of it but the MAC
 * addresses and the TTL: what differs is corrupt. A frame that comes by a tunnel of IP in IP is judged without the outer header.
 * Everything else passes.
 */
#include "pktgen.h"

/*
 * Whether a frame has been here: 32 of them a word, the upper half of which says which round of the window they are of. Each
 * sender has a window of its own, since without a schedule one may be far ahead of another.
 */
#define WINDOW_BITS 24
#define WINDOW_WORDS (1 << (WINDOW_BITS - 5))

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WINDOW_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

/*
 * Sender and queue -> the number after the highest of this sender that came in there. One queue is served by one core at a time. As
 * `seen`, it is given more entries where there are more senders than one.
 */
#define MAX_QUEUES 1024

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u64);
} next SEC(".maps");

/* Destination MAC -> frames. limits::PKTGEN_MACS */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} macs SEC(".maps");

/* In the order of sink::Counts. */
struct tally {
	/* Intact and for the first time; so are all of the frames below but duplicates and corrupt ones. */
	__u64 received;
	__u64 bytes;
	__u64 duplicates;
	__u64 corrupt;
	/* After one that the same sender sent later (RFC 4737, section 3.3), on the same queue. */
	__u64 reordered;
	/* With a lower TTL. */
	__u64 routed;
	/* For whose MAC there was no room. */
	__u64 other_macs;
	struct times latency;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

#define TTL 64
/* Cores that may meet at one word of the window. */
#define TRIES 16

INLINE int is_head_intact(const struct template *t, const __u64 *head, void *end, int words)
{
	if ((void *)(head + words) > end)
		return 0;
	__u64 different = 0;
	for (int i = 0; i < words; i++)
		different |= (head[i] ^ t->head[i]) & t->mask[i];
	return !different;
}

/* From the end of the head to `to`, the beginning of the trailer. */
ONCE int is_filler_intact(struct xdp_md *ctx, __u32 head, __u32 to)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	struct filler *middle = bpf_map_lookup_elem(&filler, &zero);
	if (!middle || head > V6_HEAD || to > MAX_FRAME)
		return 0;
	const __u64 *word = data + head;
	__u64 different = 0;
	for (__u32 i = head / 8; i < MAX_FRAME / 8; i++, word++) {
		if ((i + 1) * 8 > to || (void *)(word + 1) > end)
			break;
		different |= *word ^ middle->words[i];
	}
	const __u8 *byte = (const __u8 *)word, *expected = (const __u8 *)middle;
	for (__u32 i = 0; i < 7; i++, byte++) {
		__u32 place = (to & ~7U) + i;
		if (place >= to || (void *)(byte + 1) > end || place >= MAX_FRAME)
			break;
		different |= *byte ^ expected[place];
	}
	return !different;
}

/* Of an intact frame, whether it was routed; -1: not intact. */
INLINE int inspect_v4(const struct template *t, void *data, void *end, __u64 client, const void *trailer)
{
	struct iphdr *ip = data + ETH_HLEN;
	if (!is_head_intact(t, data, end, V4_HEAD / 8))
		return -1;
	__be32 source = BE32((__u32)(t->first + client));
	/* A router changes the TTL and mends the checksum (RFC 1624). */
	const __be16 *words = (void *)ip;
	__u64 sum = 0;
	for (int i = 0; i < 10; i++)
		sum += words[i];
	if (ip->saddr != source || fold(sum) != 0xffff || ip->ttl > TTL || *checksum_place(t, ip + 1) != checksum(t, source, trailer))
		return -1;
	return ip->ttl < TTL;
}

INLINE int inspect_v6(const struct template *t, void *data, void *end, __u64 client, const void *trailer)
{
	struct ipv6hdr *ip = data + ETH_HLEN;
	if (!is_head_intact(t, data, end, V6_HEAD / 8))
		return -1;
	__u64 high = be64(t->first_high), low = be64(t->first + client), halves[2];
	__builtin_memcpy(halves, &ip->saddr, 16);
	if (halves[0] != high || halves[1] != low || ip->hop_limit > TTL ||
	    *checksum_place(t, ip + 1) != checksum(t, sum64(high) + sum64(low), trailer))
		return -1;
	return ip->hop_limit < TTL;
}

INLINE int inspect(struct xdp_md *ctx, __u64 number)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 size = end - data;
	const struct template *t = template_of(number);
	if (!t || t->size != size || size < V4_HEAD || size > MAX_FRAME)
		return -1;
	const void *trailer = trailer_of(data, size);
	if (trailer + TRAILER > end)
		return -1;
	__u32 head = t->v6 ? V6_HEAD : V4_HEAD, filler_end = size - TRAILER;
	if (filler_end > head && !is_filler_intact(ctx, head, filler_end))
		return -1;
	__u64 client = client_of(number);
	return t->v6 ? inspect_v6(t, data, end, client, trailer) : inspect_v4(t, data, end, client, trailer);
}

INLINE __u64 sender_of(__u64 number)
{
	return sender_count == 1 ? 0 : number % sender_count;
}

/* Frames that its sender had sent before. */
INLINE __u64 place_of(__u64 number)
{
	return sender_count == 1 ? number : number / sender_count;
}

/* Notes that the frame was here; whether it had been before. What is late by a whole window counts as new. */
ONCE int is_duplicate(__u64 number)
{
	__u64 place = place_of(number);
	__u32 at = sender_of(number) * WINDOW_WORDS + ((place >> 5) & (WINDOW_WORDS - 1));
	__u64 *word = bpf_map_lookup_elem(&seen, &at);
	if (!word)
		return 0;
	/* 0 is nobody's round. */
	__u64 round = (place >> WINDOW_BITS) + 1, bit = 1ULL << (place & 31);
	__u64 old = *(volatile __u64 *)word;
	for (int i = 0; i < TRIES; i++) {
		__u64 then = old >> 32;
		if (then > round)
			return 0;
		if (then == round && (old & bit))
			return 1;
		__u64 new = then == round ? old | bit : round << 32 | bit;
		__u64 found = __sync_val_compare_and_swap(word, old, new);
		if (found == old)
			return 0;
		old = found;
	}
	return 0;
}

INLINE int is_late(__u32 queue, __u64 number)
{
	__u32 at = sender_of(number) * MAX_QUEUES + queue;
	__u64 *expected = queue < MAX_QUEUES ? bpf_map_lookup_elem(&next, &at) : 0;
	if (!expected)
		return 0;
	if (number < *expected)
		return 1;
	*expected = number + 1;
	return 0;
}

INLINE void count_mac(struct tally *tally, const __u8 *mac)
{
	__u64 key = 0, one = 1;
	__builtin_memcpy(&key, mac, ETH_ALEN);
	__u64 *count = bpf_map_lookup_elem(&macs, &key);
	if (!count && bpf_map_update_elem(&macs, &key, &one, BPF_NOEXIST) == 0)
		return;
	/* Another core was quicker, or the map is full. */
	count = count ? count : bpf_map_lookup_elem(&macs, &key);
	if (count)
		++*count;
	else
		tally->other_macs++;
}

/* What an outer header carries; <linux/in.h> includes what this target does not have. */
enum { IPV4_INSIDE = 4, IPV6_INSIDE = 41 };

/* Takes an outer IPv4 header away, if there is one: RFC 2003; RFC 4213, section 3. The Ethernet header stays before what is left. */
INLINE int unwrap(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *outer = data + ETH_HLEN;
	if ((void *)(outer + 1) > end || eth->h_proto != BE16(ETH_P_IP) || outer->ihl != 5)
		return 0;
	if (outer->protocol != IPV4_INSIDE && outer->protocol != IPV6_INSIDE)
		return 0;
	struct ethhdr kept = *eth;
	kept.h_proto = outer->protocol == IPV4_INSIDE ? BE16(ETH_P_IP) : BE16(ETH_P_IPV6);
	if (bpf_xdp_adjust_head(ctx, sizeof(*outer)))
		return -1;
	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return -1;
	*eth = kept;
	return 0;
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 size = end - data;
	if (size < V4_HEAD || size > MAX_FRAME)
		return XDP_PASS;
	const void *trailer = trailer_of(data, size);
	if (trailer + TRAILER > end || RUN(trailer) != BE32(run_id))
		return XDP_PASS;
	__u32 zero = 0;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &zero);
	if (!tally)
		return XDP_PASS;

	__u64 now = bpf_ktime_get_ns(), stamp = be64(STAMP(trailer));
	__u64 number = (__u64)BE16(NUMBER_HIGH(trailer)) << 32 | BE32(NUMBER_LOW(trailer));
	int routed = unwrap(ctx) ? -1 : inspect(ctx, number);
	if (routed < 0) {
		tally->corrupt++;
		return XDP_DROP;
	}
	if (is_duplicate(number)) {
		tally->duplicates++;
		return XDP_DROP;
	}
	tally->received++;
	tally->bytes += size;
	tally->routed += routed;
	tally->reordered += is_late(ctx->rx_queue_index, number);
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) <= (void *)(long)ctx->data_end)
		count_mac(tally, eth->h_dest);
	record(&tally->latency, now > stamp ? now - stamp : 0);
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
