/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which sources are denied: the twin of src/table/lists.rs, whose words these are. Included by dispatch.h. */
#ifndef ONEIP_LISTS_H
#define ONEIP_LISTS_H

#include "arena.h"
#include "counters.h"
#include "ranges.h"

/* A tree of so many levels has 9^7 - 1 keys, far more than there may be. */
#define LIST_LEVELS 7

struct fate {
	__u64 drops; /* by groups of services, a bit each */
	__u64 counts;
};

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
		number = find_range(&arena, &head->lists_v6, address, 1, LIST_LEVELS);
	} else {
		address[0] = BE32(choice->source[0]);
		number = find_range(&arena, &head->lists_v4, address, 0, LIST_LEVELS);
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
