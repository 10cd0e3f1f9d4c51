/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which prefix an address is in, of several the longest: the twin of src/table/prefixes.rs. */
#ifndef ONEIP_PREFIXES_H
#define ONEIP_PREFIXES_H

#include "ranges.h"

/* A tree of so many levels has 9^5 - 1 keys: enough for limits::MAX_ADDRESSES. */
#define PREFIX_LEVELS 5

/* Of cluster addresses. The ranges' values are the prefixes' numbers, from 1. */
struct prefixes {
	struct tree v4;
	struct tree v6;
	__u32 entries; /* first cell */
};

/* table::prefixes::Prefixes::find_v4, find_v6 */
INLINE struct entry *find_prefix(void *map, const struct prefixes *prefixes, const __u64 *cluster, int is_v6)
{
	__u64 address[2] = {};
	__u32 number;
	if (is_v6) {
		address[0] = BE64(cluster[0]);
		address[1] = BE64(cluster[1]);
		number = find_range(map, &prefixes->v6, address, 1, PREFIX_LEVELS);
	} else {
		address[0] = BE32(cluster[0]);
		number = find_range(map, &prefixes->v4, address, 0, PREFIX_LEVELS);
	}
	struct entry *entry = AT_INDEX_OF(map, struct entry, prefixes->entries, hidden(number - 1, prefixes->entries));
	return number ? entry : 0;
}

#endif
