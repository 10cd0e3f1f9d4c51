/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which frames are beyond a limit: the twin of src/table/limits.rs, which says how. Included by dispatch.h. */
#ifndef ONEIP_LIMITS_H
#define ONEIP_LIMITS_H

#include "tokens.h"

#define BYTE_PARTS 12
#define LIMIT_DEEPEST (3600ULL * 1000000000 << TIME_PARTS)

/* model::LimitKind */
enum limit_kind { SOURCE_SYN, SOURCE_PACKETS, ALL_SYN, ALL_PACKETS, ALL_BITS, LIMIT_KINDS };

/* What `limit` returns beside the kind, which is 1 more than its number: the limit only counts. */
#define ONLY_COUNTED 16

/* table::limits::Rule */
struct rule {
	struct gauge gauges[LIMIT_KINDS];
	__u64 mask_v4;
	__u64 mask_v6[2];
	__u32 slot;
	__u32 only_counts;
	__u64 unused[2];
};
_Static_assert(sizeof(struct rule) == 128, "src/xdp/dispatch/compile.rs");

/* Of sources: whose a cell is (0: nobody's), and when it is full. */
struct source_cell {
	__u64 whose;
	__u64 full_at;
};

#define SOURCE_CELLS 4

struct source_bucket {
	struct source_cell cells[SOURCE_CELLS];
};

/* How many there are; the loader sets it. */
volatile const __u32 source_buckets;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, struct source_bucket);
} limit_sources SEC(".maps");

INLINE struct source_bucket *source_bucket(__u32 bits)
{
	__u32 at = (__u64)bits * source_buckets >> 32;
	return bpf_map_lookup_elem(&limit_sources, &at);
}

INLINE struct source_cell *source_cell(__u64 hash, __u64 place)
{
	struct source_bucket *bucket = source_bucket(place < SOURCE_CELLS ? hash : hash >> 32);
	return bucket ? &bucket->cells[hidden(place, hash) % SOURCE_CELLS] : 0;
}

/* Which of the cells that a source may have it has. -1: none. */
ONCE __s64 find_source(__u64 hash)
{
	struct source_bucket *first = source_bucket(hash), *second = source_bucket(hash >> 32);
	__s64 place = -1;
	if (!first || !second)
		return -1;
#pragma unroll
	for (int at = 2 * SOURCE_CELLS - 1; at >= 0; at--)
		if ((at < SOURCE_CELLS ? first : second)->cells[at % SOURCE_CELLS].whose == hash)
			place = at;
	return place;
}

/* Gives a source the cell that is missed least. */
ONCE int insert_source(__u64 hash, __u64 now, __u64 cost)
{
	struct source_bucket *first = source_bucket(hash), *second = source_bucket(hash >> 32);
	if (!first || !second)
		return 0;
	__u64 least = -1ULL;
#pragma unroll
	for (__u32 at = 0; at < 2 * SOURCE_CELLS; at++) {
		struct source_cell *cell = &(at < SOURCE_CELLS ? first : second)->cells[at % SOURCE_CELLS];
		__u64 lack = cell->whose ? lack_of(cell->full_at, now, LIMIT_DEEPEST) : 0;
		least = least_of(least, lack << 3 | at);
	}
	struct source_cell *cell = source_cell(hash, least & 7);
	if (cell) {
		cell->full_at = now + cost;
		cell->whose = hash;
	}
	return 0;
}

/* table::limits::Limits::hash */
ONCE __u64 hash_source(const struct limit_key *key, const struct rule *rule, const struct choice *choice, __u32 kind)
{
	if (!key || !rule || !choice)
		return 1;
	__u64 v[4] = { key->words[0], key->words[1], key->words[2], key->words[3] };
	__u64 of = rule->slot | (__u64)kind << 16, last;
	if (choice->flow.is_v6) {
		absorb(v, choice->source[0] & rule->mask_v6[0]);
		absorb(v, choice->source[1] & rule->mask_v6[1]);
		last = of | 19ULL << 56;
	} else {
		last = (choice->source[0] & rule->mask_v4) | of << 32 | 7ULL << 56;
	}
	absorb(v, last);
	v[2] ^= 0xff;
	sip_round(v);
	sip_round(v);
	sip_round(v);
	__u64 hash = v[0] ^ v[1] ^ v[2] ^ v[3];
	return hash ? hash : 1;
}

/* What is asked of a source's bucket. */
struct asked {
	__u64 hash; /* 0: nothing */
	__u64 seen;
	__u64 lack;
	__u32 place; /* SOURCE_CELLS * 2: it has none */
};

/* Whether a frame is beyond that limit of its source. */
INLINE int is_beyond(const struct rule *rule, const struct limit_key *key, const struct choice *choice, const __u32 kind,
		     __u64 now, struct asked *asked)
{
	const struct gauge *gauge = &rule->gauges[kind];
	asked->hash = hash_source(key, rule, choice, kind);
	__s64 place = find_source(asked->hash);
	asked->place = 2 * SOURCE_CELLS;
	asked->seen = 0;
	asked->lack = 0;
	if (place >= 0) {
		struct source_cell *cell = source_cell(asked->hash, place);
		if (cell) {
			asked->place = place;
			asked->seen = cell->full_at;
			asked->lack = lack_of(asked->seen, now, gauge->depth);
		}
	}
	return asked->lack + gauge->cost > gauge->depth;
}

ONCE int take_source(const struct asked *asked, __u64 now, __u64 cost)
{
	if (!asked || !asked->hash)
		return 0;
	if (asked->place == 2 * SOURCE_CELLS)
		return insert_source(asked->hash, now, cost);
	struct source_cell *cell = source_cell(asked->hash, asked->place);
	if (cell)
		take(&cell->full_at, asked->seen, asked->lack, now, cost);
	return 0;
}

/* table::limits::Limits::judge and charge, of a frame whose service and source are known. 0: it passes. */
ONCE int limit(const struct head *head, struct choice *choice, __u64 now)
{
	if (!head || !choice)
		return 0;
	struct limit_key *key = AT_INDEX(struct limit_key, head->limits, 0);
	struct rule *rule = AT_INDEX(struct rule, head->limits, choice->service + 1);
	if (!key || !rule)
		return 0;
	__u32 slot = rule->slot;
	struct service_buckets *buckets = bpf_map_lookup_elem(&limit_services, &slot);
	if (!buckets)
		return 0;
	const int kept = rule->only_counts ? ONLY_COUNTED : 0, begins = choice->flow.begins;
	struct asked syn = {}, packets = {};
	now <<= TIME_PARTS;
	if (begins && rule->gauges[SOURCE_SYN].depth && is_beyond(rule, key, choice, SOURCE_SYN, now, &syn))
		return kept + 1 + SOURCE_SYN;
	if (rule->gauges[SOURCE_PACKETS].depth && is_beyond(rule, key, choice, SOURCE_PACKETS, now, &packets))
		return kept + 1 + SOURCE_PACKETS;
	__u64 seen[3], lack[3], cost[3] = { rule->gauges[ALL_SYN].cost, rule->gauges[ALL_PACKETS].cost,
					    choice->bytes * rule->gauges[ALL_BITS].cost >> BYTE_PARTS };
	const int asks[3] = { begins && rule->gauges[ALL_SYN].depth, rule->gauges[ALL_PACKETS].depth != 0,
			      rule->gauges[ALL_BITS].depth != 0 };
#pragma unroll
	for (int at = 0; at < 3; at++) {
		__u64 depth = rule->gauges[ALL_SYN + at].depth;
		seen[at] = buckets->full_at[at];
		lack[at] = lack_of(seen[at], now, depth);
		if (asks[at] && lack[at] + cost[at] > depth)
			return kept + 1 + ALL_SYN + at;
	}
#pragma unroll
	for (int at = 0; at < 3; at++)
		take_shared(slot * SHARED_BUCKETS + at, seen[at], lack[at], now, cost[at] * asks[at]);
	take_source(&syn, now, rule->gauges[SOURCE_SYN].cost);
	take_source(&packets, now, rule->gauges[SOURCE_PACKETS].cost);
	return 0;
}

/* Frames beyond limits: of each core, service and mode, by kind. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} limited SEC(".maps");

COLD int count_limited(const struct head *head, __u32 core, __u32 service, __u32 what)
{
	__u32 at = core * services_of_core + head->latencies + service;
	at = (at * 2 + (what >= ONLY_COUNTED)) * LIMIT_KINDS + what % ONLY_COUNTED - 1;
	__u64 *frames = bpf_map_lookup_elem(&limited, &at);
	if (frames)
		(*frames)++;
	return 0;
}

#endif
