/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a dispatcher decides by: the twin of src/table, as src/xdp/dispatch lays it out. Cells without a meaning of their own (the
 * arena), and a few heads, each of which says where everything of one table begins. User space writes what is new into cells
 * that no head leads to, and a head that is not the present one; then one word says that it is. A frame reads that word once.
 */
#ifndef ONEIP_ARENA_H
#define ONEIP_ARENA_H

#include "hash.h"
#include "prefixes.h"
#include "way.h"

#define HEADS 8

/* Flags of a head: frames are watched, of all clients, as they come in, only what is dropped of that, and as they go out. */
#define WATCHED 1
#define WATCHED_ALL 2
#define WATCHED_RECEIVED 4
#define WATCHED_DROPPED 8
#define WATCHED_SENT 16
#define LISTED 32
#define LIMITS 64
#define ODD_LIMITS 128

struct head {
	struct key key;            /* of what selects */
	struct key flow_key;       /* of flows that are remembered */
	struct directory ports;    /* entries; apart from addresses, because nearly every frame needs only these */
	struct directory addresses;
	struct directory loops;    /* words: MAC, and the address' id in the upper 16 bits */
	struct directory servers;  /* words: MAC, and a bit above it */
	struct directory keeping;  /* words: ident, and destination in the upper 32 bits */
	__u64 horizon;             /* in ticks: what was last seen before is not remembered */
	__u64 watched[2];          /* the client, as in the packet */
	__u32 services;            /* first cell */
	__u32 hops;                /* first cell */
	__u32 idents;              /* first cell, by destination */
	__u32 tally;
	__u32 accounts;            /* the first destination's */
	__u32 latencies;           /* the first service's */
	__u32 flags;
	__u32 watched_is_v6;
	__u32 ways;                /* first cell; 0: everything goes as it is */
	__u32 own_egress;          /* not 0: answers are redirected to where they came from; 0: XDP_TX */
	__u32 snap;                /* most bytes that are kept of a watched frame */
	struct tree lists_v4;
	struct tree lists_v6;
	__u32 fates;               /* first cell */
	struct prefixes prefixes;  /* of cluster addresses */
	__u32 limits;              /* first cell */
	__u32 watched_of;          /* chance takes one frame in so many; 0: all */
	__u32 unused;
	struct directory quic;     /* entries */
};
_Static_assert(sizeof(struct head) == 312, "src/xdp/dispatch/layout.rs");

struct control {
	__u32 present; /* the head that counts */
	__u32 unused;
	__u64 clock;   /* what time it is, for tests; 0: what the kernel says */
	__u64 unseen;  /* watched frames that found no room, since the start */
	struct head heads[HEADS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64[CELL / 8]);
} arena SEC(".maps");

/*
 * Nothing looks here. An update of a map of maps returns when no program is under way any more that began before it
 * (kernel/bpf/syscall.c, maybe_wait_bpf_programs): what no head leads to is free then.
 */
struct nothing {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__array(values, struct nothing);
} grace SEC(".maps");

#define AT_INDEX(type, first, index) AT_INDEX_OF(&arena, type, first, index)

struct service {
	__u32 slots;
	__u32 owners;      /* first cell */
	__u32 servers;     /* selection by remainder: how many; 0: by hash */
	__u32 remainders;  /* first cell */
	__u32 base;        /* the first server's destination */
	__u32 moves;       /* the cell that says who keeps what moves; 0: nothing does */
	__u16 flags;
	__u16 count;       /* servers */
	__u32 hops;        /* the first server's; services with the same servers share theirs */
};
_Static_assert(sizeof(struct service) == 32, "src/xdp/dispatch/layout.rs");

/* Flags of a service; from this bit on stands its group, by the lists that it has. */
#define BY_FLOW 1
#define QUIC 2
#define SECOND_CHANCE 4
#define GROUP 8

/*
 * What stands at a slot: a server of the service, or NOBODY; with the mark MIGRATING where flows may be another's:
 * table::build::maglev::NOBODY and table::MIGRATING.
 */
#define NOBODY 0x7fff
#define MIGRATING 0x8000

/* In the first cell of slots, or of remainders: a byte each, of which 0x7f is NOBODY, and 0x80 the mark. Caches hold twice as many. */
#define NARROW 0x80000000

struct hop {
	__u8 destination[ETH_ALEN];
	__u8 source[ETH_ALEN];
	__u32 egress; /* 0: the interface that it came in by */
};
_Static_assert(sizeof(struct hop) == 16, "src/xdp/dispatch/layout.rs");

/* In `egress`: it is not known how to get there; its packets get headers or another address. */
#define NOT_RESOLVED 0x80000000
#define HAS_WAY 0x40000000

/* Word of a directory: what the key's bits are the same as. 0: none. An empty directory has no cell. */
INLINE __u64 find_word(const struct directory *directory, __u64 key, const __u64 mask)
{
	__u64 hash = key * directory->factor >> (directory->shift & 63);
	__u64 *bucket = cell(&arena, directory->first + (__u32)(hash / (CELL / 8)));
	if (!bucket || !directory->first)
		return 0;
	for (__u32 i = 0; i < PROBES; i++) {
		__u64 word = bucket[(hash + i) % (CELL / 8)];
		if (!word)
			return 0;
		if ((word & mask) == key)
			return word;
	}
	return 0;
}

#endif
