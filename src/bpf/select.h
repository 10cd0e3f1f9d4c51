/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which service a flow is for: the twin of src/xdp/directory.rs and of path::select::choose. */
#ifndef ONEIP_SELECT_H
#define ONEIP_SELECT_H

#include "parse.h"
#include "table.h"

/* A protocol and a port of one family in one word. Never 0. */
INLINE __u32 port_key(int is_v6, __u8 protocol, __be16 port)
{
	return (__u32)port << 16 | (is_v6 ? 6 : 4) << 8 | protocol;
}

/* xdp::directory */
INLINE struct entry *find(void *map, const struct directory *directory, const __u64 *address, __u32 port)
{
	__u64 hash = (address[0] + address[1] * 0x9e3779b97f4a7c15 + port * 0xbf58476d1ce4e5b9) * directory->factor;
	hash >>= directory->shift & 63;
	struct entry *bucket = cell(map, directory->first + (__u32)(hash >> ENTRIES_BITS));
	if (!bucket)
		return 0;
	for (__u32 i = 0; i < PROBES; i++) {
		struct entry *entry = &bucket[(hash + i) & (ENTRIES - 1)];
		if (!entry->port)
			return 0;
		if (entry->port == port && entry->address[0] == address[0] && entry->address[1] == address[1])
			return entry;
	}
	return 0;
}

/* path::select::choose */
INLINE __u16 choose(void *map, const struct directory *directory, const struct services *address, const struct flow *flow)
{
	struct entry *port;
	switch (flow->upper) {
	case PORTS:
	case FIRST_FRAGMENT:
		port = find(map, directory, flow->cluster, port_key(flow->is_v6, flow->transport, flow->destination));
		return port ? port->services.service : address->service;
	case LATER_FRAGMENT:
		if (flow->transport == TCP)
			return address->by_transport[0];
		return flow->transport == UDP ? address->by_transport[1] : address->by_transport[2];
	case ADDRESS:
		return address->whole;
	case OTHER:
		return address->service;
	}
	return NO_SERVICE_ID;
}

#endif
