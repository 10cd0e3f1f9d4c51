/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow table: the twin of src/table/flow_table.rs, in the same memory. One a receive queue, which one core serves at a
 * time, or its worker; read and written only for frames whose slot is migrating.
 */
#ifndef ONEIP_FLOW_TABLE_H
#define ONEIP_FLOW_TABLE_H

#include "oneip.h"

struct remembering {
	__u64 whose; /* 40 bits of the flow's hash, 24 of the server's ident; without an ident: free */
	__u64 state; /* 40 bits of ticks, 20 of position, `disputed`, 3 of stage */
};

#define BUCKET 4

struct bucket {
	struct remembering entries[BUCKET];
};

/* Buckets of a queue, of flows, and behind them of SYNs; the loader sets it. 0: nothing is remembered. */
volatile const __u32 flow_buckets;
volatile const __u32 syn_buckets;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* of all queues; the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct bucket);
} flows SEC(".maps");

/* Of a queue: table::flow_table::FlowTableReport. */
struct flow_report {
	__u64 held;
	__u64 remembered;
	__u64 evicted;
	__u64 displaced;
	__u64 key[4]; /* the first queue's: what flows are hashed with, for the next instance */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* queues; the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_report);
} flow_reports SEC(".maps");

enum stage { BEGUN, ESTABLISHED, SHOWN, SPARE, CLOSING, DATAGRAMS };

/* What is remembered of a flow: table::flow_table::Flow. */
struct memory {
	__u32 server; /* its ident */
	__u32 stage;
	__u32 position; /* of the client, in steps of 4 KiB */
	__u32 disputed;
	__u64 seen; /* in ticks */
};

#define IDENT 0xffffffULL

/* Times in ticks of 2^23 ns, and the bounds of src/limits.rs in them. */
#define TICK 23
#define SECONDS(seconds) ((seconds) * 1000000000ULL >> TICK)
#define FLOW_IDLE SECONDS(30)
#define FLOW_HALF_OPEN SECONDS(64)
#define FLOW_SYN_RETRY SECONDS(1)
#define FLOW_REOPEN SECONDS(5)
#define FLOW_CLOSED SECONDS(60)
#define FLOW_ESTABLISHED_IDLE SECONDS(9000)

#define STEP 12
#define POSITION_BITS 0xfffffU
/* FLOW_SEQUENCE_WINDOW in steps. */
#define WINDOW 16

/* How far `other` is ahead of `position`; sequence numbers turn over. */
INLINE __s32 ahead(__u32 other, __u32 position)
{
	return (__s32)((other - position) << STEP) >> STEP;
}

INLINE int is_near(__u32 position, __u32 other)
{
	__s32 by = ahead(other, position);
	return by <= WINDOW && by >= -WINDOW;
}

INLINE __u32 furthest(__u32 position, __u32 other)
{
	return ahead(other, position) > 0 ? other : position;
}

INLINE int is_silent(const struct memory *flow, __u64 longer, __u64 now)
{
	return now > flow->seen && now - flow->seen > longer;
}

INLINE int is_over(const struct memory *flow, __u64 now)
{
	switch (flow->stage) {
	case BEGUN:
		return is_silent(flow, FLOW_HALF_OPEN, now);
	case CLOSING:
		return is_silent(flow, FLOW_CLOSED, now);
	case DATAGRAMS:
		return is_silent(flow, FLOW_IDLE, now);
	}
	return 0;
}

INLINE __u64 packed(const struct memory *flow)
{
	return flow->seen << 24 | (__u64)flow->position << 4 | (flow->disputed ? 8 : 0) | flow->stage;
}

INLINE void unpack(const struct remembering *entry, struct memory *flow)
{
	__u64 state = entry->state;
	flow->server = entry->whose & IDENT;
	flow->stage = state & 7;
	flow->position = state >> 4 & POSITION_BITS;
	flow->disputed = state >> 3 & 1;
	flow->seen = state >> 24;
}

INLINE __u64 fingerprint(__u64 hash)
{
	return hash * 0x9e3779b97f4a7c15 & ~IDENT;
}

INLINE int is_flow(const struct remembering *entry, __u64 hash)
{
	return (entry->whose & ~IDENT) == fingerprint(hash) && (entry->whose & IDENT);
}

/* Parts of the memory: table::flow_table::Part. */
enum { FLOWS, SYNS };

/* Of a queue. Products and not branches: the verifier looks at each way on from one. */
INLINE __u32 bucket_of_queue(__u32 bits, __u32 part)
{
	__u32 count = flow_buckets + part * (syn_buckets - flow_buckets);
	return part * flow_buckets + (__u32)((__u64)bits * count >> 32);
}

INLINE struct bucket *bucket_at(__u32 queue, __u32 bits, __u32 part)
{
	__u32 at = queue * (flow_buckets + syn_buckets) + bucket_of_queue(bits, part);
	return flow_buckets ? bpf_map_lookup_elem(&flows, &at) : 0;
}

INLINE struct flow_report *report_of(__u32 queue)
{
	return bpf_map_lookup_elem(&flow_reports, &queue);
}

/* The entry of that place among those that a flow may have in that part. */
INLINE struct remembering *entry_at(__u32 queue, __u64 hash, __u32 place, __u32 part)
{
	struct bucket *bucket = bucket_at(queue, place < BUCKET ? hash : hash >> 32, part);
	return bucket ? &bucket->entries[hidden(place, hash) % BUCKET] : 0;
}

/* Where something is remembered of a flow since a tick, in that part. -1: nothing is. */
ONCE int find_flow(__u32 queue, __u64 hash, __u64 since, __u32 part)
{
	part &= 1;
	struct bucket *first = bucket_at(queue, hash, part), *second = bucket_at(queue, hash >> 32, part);
	int place = -1;
	if (!first || !second)
		return -1;
#pragma unroll
	for (int at = 2 * BUCKET - 1; at >= 0; at--) {
		struct remembering *entry = &(at < BUCKET ? first : second)->entries[at % BUCKET];
		if (is_flow(entry, hash) && entry->state >> 24 >= since)
			place = at;
	}
	return place;
}

INLINE void forget(__u32 queue, struct remembering *entry, __u32 part)
{
	struct flow_report *report = report_of(queue);
	entry->whose = 0;
	entry->state = 0;
	if (report && report->held)
		report->held -= 1 - part;
}

/* The least goes first; 0: it may be overwritten without loss. */
ONCE int worth(__u64 whose, __u64 state, __u64 now, __u64 horizon)
{
	struct remembering entry = { .whose = whose, .state = state };
	struct memory flow;
	unpack(&entry, &flow);
	if (!flow.server || flow.seen < horizon || is_over(&flow, now))
		return 0;
	if (flow.stage == SPARE)
		return 1;
	return flow.stage == DATAGRAMS || flow.stage == ESTABLISHED ? 3 : 2;
}

/* How many of a bucket are worth something. */
ONCE int crowd_of(const struct bucket *bucket, __u64 now, __u64 horizon)
{
	__u32 crowd = 0;
	if (!bucket)
		return 0;
	for (int i = 0; i < BUCKET; i++)
		crowd += worth(bucket->entries[i].whose, bucket->entries[i].state, now, horizon) > 0;
	return crowd;
}

/*
 * The lower of the rank that was least and an entry's: what it is worth (2
 * bits), how crowded its bucket is (3), when it was seen (40), and its place (3).
 */
ONCE __u64 least_of(__u64 least, __u64 rank)
{
	return rank < least ? rank : least;
}

/*
 * Remembers a flow, which was seen now, in that part of the memory; whatever was known of it there gives way.
 */
ONCE int put_flow(__u32 queue, __u64 hash, const struct memory *flow, __u64 horizon, __u32 part)
{
	struct bucket *first = bucket_at(queue, hash, part), *second = bucket_at(queue, hash >> 32, part);
	struct flow_report *report = report_of(queue);
	if (!first || !second || !report || !flow)
		return 0;
	part &= 1;
	__u64 now = flow->seen;
	int place = find_flow(queue, hash, 0, part);
	if (place < 0) {
		/* What is worth least, in the emptier bucket, silent for longest. */
		__u64 least = -1ULL, crowds[2] = { crowd_of(first, now, horizon), crowd_of(second, now, horizon) };
		if (bucket_of_queue(hash, part) == bucket_of_queue(hash >> 32, part))
			crowds[1] = crowds[0];
#pragma unroll
		for (__u32 at = 0; at < 2 * BUCKET; at++) {
			struct remembering *entry = &(at < BUCKET ? first : second)->entries[at % BUCKET];
			__u64 value = worth(entry->whose, entry->state, now, horizon);
			least = least_of(least, value << 46 | crowds[at / BUCKET] << 43 | entry->state >> 24 << 3 | at);
		}
		place = least & 7;
		/* Sums and not branches, as in steer.bpf.c. */
		report->evicted += (1 - part) * (least >> 47);
		report->displaced += part * (least >> 47);
		struct remembering *entry = entry_at(queue, hash, place, part);
		report->held += (1 - part) * (entry && !(entry->whose & IDENT));
		report->remembered += 1 - part;
	}
	struct remembering *entry = entry_at(queue, hash, place, part);
	if (!entry)
		return 0;
	entry->whose = fingerprint(hash) | flow->server;
	entry->state = packed(flow);
	return 0;
}

#endif
