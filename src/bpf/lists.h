/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which sources are denied: the twin of src/table/lists.rs, whose words these are. Included by dispatch.h. */
#ifndef ONEIP_LISTS_H
#define ONEIP_LISTS_H

#include "arena.h"
#include "counters.h"

#define NODE 8
/* A tree of so many levels has 9^7 - 1 keys, far more than there may be. */
#define LEVELS 7

struct node_v4 {
	__u64 keys[NODE];
};

struct node_v6 {
	__u64 keys[NODE][2];
};

struct fate {
	__u64 drops; /* by groups of services, a bit each */
	__u64 counts;
};

/*
 * Without branches: the verifier would follow both ways of each. `hide` keeps clang from making branches of it.
 */
INLINE __u64 hide(__u64 value)
{
	asm volatile("" : "+r"(value));
	return value;
}

/* Whether a < b; the borrow of a - b. */
INLINE __u64 is_below(__u64 a, __u64 b)
{
	return ((~a & b) | (~(a ^ b) & (a - b))) >> 63;
}

/* table::lists::Tree::find: the fate of the range that has the address; 0: there is none. */
INLINE __u32 find_range(const struct tree *tree, const __u64 *address, const int is_v6)
{
	const __u64 upper = hide(address[0]), lower = hide(address[1]);
	/* Behind the key that the range begins with. */
	__u64 node = 0, found = 0;
	/* Unrolled: without CAP_PERFMON the verifier follows a loop's counter past its end, where the processor might guess so. */
#pragma unroll
	for (int level = 0; level < LEVELS; level++) {
		if (node >= tree->nodes)
			break;
		__u64 behind = 0;
		if (is_v6) {
			struct node_v6 *v6 = AT_INDEX(struct node_v6, tree->keys, hidden(node, tree->keys));
			if (!v6)
				break;
#pragma unroll
			for (int i = 0; i < NODE; i++) {
				__u64 key = v6->keys[i][0], differ = upper ^ key;
				__u64 is_same = 1 ^ (differ | -differ) >> 63;
				behind += hide(is_below(upper, key) | (is_same & is_below(lower, v6->keys[i][1])));
			}
		} else {
			struct node_v4 *v4 = AT_INDEX(struct node_v4, tree->keys, hidden(node, tree->keys));
			if (!v4)
				break;
#pragma unroll
			for (int i = 0; i < NODE; i++)
				behind += hide((upper - v4->keys[i]) >> 63);
		}
		__u64 before = hide(NODE - behind), some = -hide((before + NODE - 1) >> 3 & 1);
		found = (found & ~some) | ((node * NODE + before) & some);
		node = hide(node * (NODE + 1) + before + 1);
	}
	__u32 *fate = AT_INDEX(__u32, tree->fates, hidden(found - 1, tree->fates));
	return found && fate ? *fate : 0;
}

/* table::lists::Lists::listed, of a frame whose service and source are known. */
ONCE int screen(const struct head *head, struct choice *choice)
{
	if (!head || !choice)
		return UNLISTED;
	struct service *service = AT_INDEX(struct service, head->services, choice->service);
	if (!service)
		return UNLISTED;
	__u64 address[2] = {};
	__u32 number;
	if (choice->flow.is_v6) {
		address[0] = BE64(choice->source[0]);
		address[1] = BE64(choice->source[1]);
		number = find_range(&head->lists_v6, address, 1);
	} else {
		address[0] = BE32(choice->source[0]);
		number = find_range(&head->lists_v4, address, 0);
	}
	struct fate *fate = AT_INDEX(struct fate, head->fates, hidden(number, head->fates));
	if (!number || !fate)
		return UNLISTED;
	__u64 group = 1ULL << (service->flags >> GROUP & 63);
	if (fate->drops & group)
		return LISTED_DENIED;
	return fate->counts & group ? LISTED_COUNTED : UNLISTED;
}

/* A frame that a list has, for its service. */
COLD int count_listed(const struct head *head, __u32 core, __u32 service, __u32 what)
{
	__u32 at = core * services_of_core + head->latencies + service;
	struct listed *of = bpf_map_lookup_elem(&listed, &at);
	if (!of)
		return 0;
	/* Hidden from clang, which makes one add of both, to a computed place, for which the verifier wants CAP_PERFMON. */
	__u32 denied = hidden(what == LISTED_DENIED, at);
	of->denied += denied;
	of->would_deny += 1 - denied;
	return 0;
}

#endif
