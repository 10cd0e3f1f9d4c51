/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What pktgen.bpf.c and sink.bpf.c have to agree on: the frames, and how times are counted. Its twin is src/pktgen/frames.rs. */
#ifndef PKTGEN_H
#define PKTGEN_H

#include "buckets.h"
#include "oneip.h"

/* limits::PKTGEN_TEMPLATES, PKTGEN_FRAME (a multiple of 8) */
#define MAX_TEMPLATES 1024
#define MAX_FRAME 3000

#define HEAD_WORDS 10
#define V4_HEAD 56
#define V6_HEAD 80

/* A kind of frame: an address, a port and a size. All numbers are 8 bytes, so that it is an array to the loader. */
struct template {
	/* The first bytes, without what varies: client, trailer, checksums. */
	__u64 head[HEAD_WORDS];
	/* Which of their bits must come back as they went. */
	__u64 mask[HEAD_WORDS];
	/* Without FCS. */
	__u64 size;
	__u64 v6;
	__u64 tcp;
	/* Sums of the 16-bit words, as they are in memory, of the IPv4 header and of what the transport's checksum covers. */
	__u64 ip_sum;
	__u64 transport_sum;
	/* The first client; of an IPv6 address, its two halves. */
	__u64 first_high;
	__u64 first;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_TEMPLATES);
	__type(key, __u32);
	__type(value, struct template);
} templates SEC(".maps");

/* What is between headers and trailer, at the same place. */
struct filler {
	__u64 words[MAX_FRAME / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct filler);
} filler SEC(".maps");

/*
 * The last bytes of a frame: 4 of the run, 6 of the frame's number, 8 of the stamp. No structure: of a packed one clang reads
 * and writes each byte for itself.
 */
#define TRAILER 18
#define RUN(trailer) (*(__be32 *)(trailer))
#define NUMBER_HIGH(trailer) (*(__be16 *)((trailer) + 4))
#define NUMBER_LOW(trailer) (*(__be32 *)((trailer) + 6))
#define STAMP(trailer) (*(__be64 *)((trailer) + 10))

/* The trailer of a frame of `size` bytes; whoever calls compares its end with the packet's. */
INLINE void *trailer_of(void *data, __u64 size)
{
	__u64 at = size - TRAILER;
	/* Else clang adds first and subtracts afterwards, and the verifier does not see that the place is in the packet. */
	asm volatile("" : "+r"(at));
	return data + at;
}

volatile const __u32 run_id;
volatile const __u32 template_count = 1;
volatile const __u64 clients = 1;
volatile const __u64 seed;
volatile const __u8 in_order;
/* Senders, who take turns at the frames. */
volatile const __u64 sender_count = 1;

INLINE __u64 be64(__u64 value)
{
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(value) : value;
}

/* Any 64-bit sum of 16- and 32-bit words, as one word (RFC 1071). */
INLINE __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Which client a frame is of. At random: SplitMix64 of the frame's number, so that the receiver knows it too. */
INLINE __u64 client_of(__u64 number)
{
	if (in_order)
		return number % clients;
	__u64 z = seed + (number + 1) * 0x9e3779b97f4a7c15;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	z ^= z >> 31;
	return ((z >> 32) * clients) >> 32;
}

/* Templates take turns, and with each round of the clients they move on by one, so that each client gets each. */
INLINE struct template *template_of(__u64 number)
{
	__u32 at = template_count == 1 ? 0 : (number + number / clients) % template_count;
	return bpf_map_lookup_elem(&templates, &at);
}

INLINE __u64 sum64(__u64 word)
{
	return (word & 0xffffffff) + (word >> 32);
}

/* The transport's checksum. `source` is the sum of the client's address. */
INLINE __u16 checksum(const struct template *t, __u64 source, const void *trailer)
{
	__u64 sum = (__u64)NUMBER_HIGH(trailer) + NUMBER_LOW(trailer) + sum64(STAMP(trailer));
	/* Words that begin at an odd place have their bytes the other way round. */
	if (t->size & 1)
		sum = __builtin_bswap16(fold(sum));
	sum = (__u16)~fold(t->transport_sum + source + sum);
	/* UDP writes 0 as its other form, since 0 is "none" (RFC 768); TCP need not, and does here. */
	return sum ? sum : 0xffff;
}

INLINE __u16 *checksum_place(const struct template *t, void *transport)
{
	return transport + (t->tcp ? 16 : 6);
}

struct times {
	__u64 count;
	__u64 sum;
	__u64 least;
	__u64 most;
	__u64 buckets[BUCKETS];
};

INLINE void record(struct times *times, __u64 ns)
{
	if (!times->count || ns < times->least)
		times->least = ns;
	if (ns > times->most)
		times->most = ns;
	times->count++;
	times->sum += ns;
	__u32 at = bucket_of(ns);
	if (at < BUCKETS)
		times->buckets[at]++;
}

#endif
