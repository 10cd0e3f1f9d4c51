/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ranges of addresses: the twin of src/table/ranges.rs, whose words these are. */
#ifndef ONEIP_RANGES_H
#define ONEIP_RANGES_H

#include "table.h"

/* table::ranges::Tree */
struct tree {
	__u32 keys;   /* first cell */
	__u32 values; /* first cell */
	__u32 inner;  /* so many nodes are no leaves */
	__u32 last;   /* leaf, among all nodes */
};

#define NODE 8

struct node_v4 {
	__u64 keys[NODE];
};

struct node_v6 {
	__u64 upper[NODE];
	__u64 lower[NODE];
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

/* Tree::find: the value of the range that has the address; 0: there is none. A tree has at most so many levels. */
INLINE __u32 find_range(void *map, const struct tree *tree, const __u64 *address, const int is_v6, const int levels)
{
	const __u64 upper = hide(address[0]), lower = hide(address[1]);
	__u64 node = 0;
	/* Unrolled: without CAP_PERFMON the verifier follows a loop's counter past its end, where the processor might guess so. */
#pragma unroll
	for (int level = 0; level < levels; level++) {
		/* The last address of all leads behind the last leaf. */
		__u64 room = tree->last - node;
		node = hide(node + (room & -(room >> 63)));
		__u64 behind = 0;
		if (is_v6) {
			struct node_v6 *v6 = AT_INDEX_OF(map, struct node_v6, tree->keys, hidden(node, tree->keys));
			if (!v6)
				break;
#pragma unroll
			for (int i = 0; i < NODE; i++) {
				__u64 key = v6->upper[i], differ = upper ^ key;
				__u64 is_same = 1 ^ (differ | -differ) >> 63;
				behind += hide(is_below(upper, key) | (is_same & is_below(lower, v6->lower[i])));
			}
		} else {
			struct node_v4 *v4 = AT_INDEX_OF(map, struct node_v4, tree->keys, hidden(node, tree->keys));
			if (!v4)
				break;
#pragma unroll
			for (int i = 0; i < NODE; i++)
				behind += hide((upper - v4->keys[i]) >> 63);
		}
		__u64 before = hide(NODE - behind);
		if (node >= tree->inner) {
			before = hide(before + (node - tree->inner) * NODE);
			__u32 *value = AT_INDEX_OF(map, __u32, tree->values, hidden(before, tree->values));
			return value ? *value : 0;
		}
		node = hide(node * (NODE + 1) + before + 1);
	}
	return 0;
}

#endif
