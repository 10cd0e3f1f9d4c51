/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which service a flow is for: the twin of src/xdp/directory.rs and of path::select::choose. */
#ifndef ONEIP_SELECT_H
#define ONEIP_SELECT_H

#include "parse.h"
#include "prefixes.h"

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

/* The key of a port where an address or a prefix stands, by the family of that. */
INLINE __u32 port_of(const struct entry *address, __u8 protocol, __be16 port)
{
	return (__u32)port << 16 | (address->port & 0xff00) | protocol;
}

/* table::Table::address_v4, address_v6: a cluster address, or else the longest prefix that the destination is in. */
INLINE struct entry *find_address(void *map, const struct directory *directory, const struct prefixes *prefixes,
				  const struct flow *flow)
{
	struct entry *address = find(map, directory, flow->cluster, port_key(flow->is_v6, 0, 0));
	return address || !prefixes->entries ? address : find_prefix(map, prefixes, flow->cluster, flow->is_v6);
}

/* path::select::choose */
INLINE __u16 choose(void *map, const struct directory *directory, const struct entry *address, const struct flow *flow)
{
	struct entry *port;
	switch (flow->upper) {
	case PORTS:
	case FIRST_FRAGMENT:
		port = find(map, directory, address->address, port_of(address, flow->transport, flow->destination));
		return port ? port->services.service : address->services.service;
	case LATER_FRAGMENT: {
		/* All are read, because clang would compute the place of one, for which the verifier wants CAP_PERFMON. */
		__u32 tcp = address->services.by_transport[0], udp = address->services.by_transport[1];
		__u32 sctp = address->services.by_transport[2];
		asm volatile("" : "+r"(tcp), "+r"(udp), "+r"(sctp));
		if (flow->transport == TCP)
			return tcp;
		return flow->transport == UDP ? udp : sctp;
	}
	case ADDRESS:
		return address->services.whole;
	case OTHER:
		return address->services.service;
	}
	return NO_SERVICE_ID;
}

#endif
