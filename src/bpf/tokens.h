/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Token buckets of services, and those of packets that are dear to read: the twin of src/table/limits.rs and src/table/limits/odd.rs.
 */
#ifndef ONEIP_TOKENS_H
#define ONEIP_TOKENS_H

#include "arena.h"
#include "counters.h"

#define TIME_PARTS 10
#define LIMIT_SKEW (1000000000ULL << TIME_PARTS)

struct gauge {
	__u64 cost;
	__u64 depth; /* 0: no limit */
};

/* In the place of the first rule: what sources are hashed with, and the limits of what is dear to read. Behind it, a rule for each service. */
struct limit_key {
	__u64 words[4];
	struct gauge odd[4]; /* by odd_kind */
	__u32 odd_only_counts;
	__u32 unused[7];
};
_Static_assert(sizeof(struct limit_key) == 128, "it stands in an array of rules");

/* Of a service: when its buckets are full, SYNs, packets, bits; behind the last one, by odd_kind. A cache line: all cores write them. */
#define SHARED_BUCKETS 4

struct service_buckets {
	__u64 full_at[SHARED_BUCKETS];
	__u64 unused[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, struct service_buckets);
} limit_services SEC(".maps");

/* limits::MAX_SERVICES: behind the buckets of all services */
#define ODD_SLOT 4096

INLINE __u64 lack_of(__u64 full_at, __u64 now, __u64 depth)
{
	__u64 lack = full_at - now;
	return lack > depth + LIMIT_SKEW ? 0 : lack;
}

/* Of two who find it full at once, the second adds to what the first has made of it. */
INLINE void take(__u64 *full_at, __u64 seen, __u64 lack, __u64 now, __u64 cost)
{
	if (lack || __sync_val_compare_and_swap(full_at, seen, now + cost) != seen)
		__sync_fetch_and_add(full_at, cost);
}

/*
 * From a bucket of a service, by its place among all. The verifier looks at it once: in line, the ways on from each bucket that is asked were most
 * of what it had to look at.
 */
ONCE int take_shared(__u32 place, __u64 seen, __u64 lack, __u64 now, __u64 cost)
{
	__u32 slot = place / SHARED_BUCKETS;
	struct service_buckets *buckets = bpf_map_lookup_elem(&limit_services, &slot);
	if (buckets && cost)
		take(&buckets->full_at[hidden(place, slot) % SHARED_BUCKETS], seen, lack, now, cost);
	return 0;
}

/* model::OddKind, and what limits said of a packet: nothing, that it is to be charged, or that it is beyond. */
enum odd_kind { NOT_ODD, ODD_FRAGMENTS, ODD_ICMP, ODD_OPTIONS };
#define ODD_DROPPED 4
#define ODD_COUNTED 8
#define ODD_KIND 3

/* path::classify::odd_v4 */
INLINE __u32 odd_v4(const struct iphdr *ip)
{
	if (ip->version != 4)
		return NOT_ODD;
	if (ip->frag_off & BE16(0x3fff))
		return ODD_FRAGMENTS;
	if (ip->protocol == ICMP_V4)
		return ODD_ICMP;
	return ip->ihl > 5 ? ODD_OPTIONS : NOT_ODD;
}

/* path::classify::odd_v6 */
INLINE __u32 odd_v6(const struct ipv6hdr *ip)
{
	if (ip->version != 6)
		return NOT_ODD;
	if (ip->nexthdr == 44)
		return ODD_FRAGMENTS;
	if (ip->nexthdr == ICMP_V6)
		return ODD_ICMP;
	return is_extension(ip->nexthdr) ? ODD_OPTIONS : NOT_ODD;
}

/*
 * table::limits::odd::OddLimits::judge, and charge where `is_within`, of a packet to a cluster address, at that time. What is said is put
 * into the choice.
 */
ONCE int odd_limit(const struct head *head, struct choice *choice, __u32 kind, __u64 now, __u32 is_within)
{
	__u32 slot = ODD_SLOT;
	if (!head || !choice)
		return 0;
	struct limit_key *key = AT_INDEX(struct limit_key, head->limits, 0);
	struct service_buckets *buckets = bpf_map_lookup_elem(&limit_services, &slot);
	if (!key || !buckets)
		return 0;
	__u32 at = hidden(kind - 1, slot) & 3;
	const struct gauge *gauge = &key->odd[at];
	__u64 *full_at = &buckets->full_at[at];
	now <<= TIME_PARTS;
	__u64 seen = *full_at, lack = lack_of(seen, now, gauge->depth);
	if (!gauge->depth)
		return 0;
	if (is_within) {
		take(full_at, seen, lack, now, gauge->cost);
		return 0;
	}
	choice->odd = kind;
	if (lack + gauge->cost <= gauge->depth)
		return 0;
	choice->odd |= key->odd_only_counts ? ODD_COUNTED : ODD_DROPPED;
	return !key->odd_only_counts;
}

#endif
