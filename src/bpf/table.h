/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What tables have in common, as user space lays them out: cells of 4 KiB, and among them the directory of ports. The twin of
 * src/xdp/directory.rs.
 */
#ifndef ONEIP_TABLE_H
#define ONEIP_TABLE_H

#include "oneip.h"

#define CELL 4096

#define ENTRIES (CELL / sizeof(struct entry))
#define ENTRIES_BITS 7
/* An entry is at most so many places behind its own, or at the bucket's beginning again. */
#define PROBES 8

/* The services of a cluster address; of a port, the first. */
struct services {
	__u16 service;          /* of the port; of the address: that which has every protocol and port */
	__u16 whole;            /* for what belongs to the address as a whole */
	__u16 by_transport[3];  /* for what has no ports: TCP, UDP, SCTP */
	__u16 id;               /* of the address */
};

/*
 * In the family's place of a port key: the length of a prefix, which is where the address is. As for addresses, the port 0 of protocol 0
 * is the prefix itself.
 */
#define PREFIX_V4 0x40
#define PREFIX_V6 0x80

/* A port of a cluster address, or, with the port 0 of protocol 0, the address itself. */
struct entry {
	__u64 address[2];  /* as in the packet; IPv4: the first half word of it */
	__u32 port;        /* port_key; 0: free */
	struct services services;
};

#define NO_SERVICE_ID 0xffff

/* Cells that are buckets of entries. */
struct directory {
	__u64 factor;  /* of the hash, whose upper bits are bucket and place */
	__u32 shift;   /* what is left of it */
	__u32 first;   /* cell */
};

INLINE void *cell(void *map, __u32 index)
{
	return bpf_map_lookup_elem(map, &index);
}

#define IN_CELL(type) (CELL / sizeof(type))

/* The element of an array that begins in the cell. */
#define AT_INDEX_OF(map, type, first, index)                                                     \
	({                                                                                       \
		type *in_cell_ = cell(map, (first) + (__u32)(index) / (__u32)IN_CELL(type));     \
		in_cell_ ? &in_cell_[(__u32)(index) % (__u32)IN_CELL(type)] : 0;                 \
	})

#endif
