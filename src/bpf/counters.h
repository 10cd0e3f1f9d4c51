/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a dispatcher counts and times: the twin of src/metrics/counters.rs and src/metrics/histogram.rs, as
 * src/xdp/dispatch/counters.rs reads it: the memory, without a system call. A core writes its own words: XDP does not nest on a
 * core.
 */
#ifndef ONEIP_COUNTERS_H
#define ONEIP_COUNTERS_H

#include "arena.h"
#include "buckets.h"
#include "parse.h"
#include "verdict.h"

/* Accounts of a core; the loader sets it. */
volatile const __u32 accounts_of_core;

/*
 * What went to one server of one service: the low 32 bits of the number of frames, and above them those of their bytes. Every frame finds
 * another one, so a cache line has eight.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} accounts SEC(".maps");

/* All of it, as it was when either number last passed a quarter of what it has room for. By account. */
struct total {
	__u64 frames;
	__u64 bytes; /* of whole frames, Ethernet header included */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct total);
} totals SEC(".maps");

#define QUARTERS 0xc0000000c0000000

COLD int total_up(__u32 at, __u64 account)
{
	struct total *total = bpf_map_lookup_elem(&totals, &at);
	if (total) {
		total->frames += (__u32)((__u32)account - (__u32)total->frames);
		total->bytes += (__u32)((account >> 32) - (__u32)total->bytes);
	}
	return 0;
}

INLINE void enter(__u32 at, __u32 bytes)
{
	__u64 *account = bpf_map_lookup_elem(&accounts, &at);
	if (!account)
		return;
	__u64 before = *account, after = ((before >> 32) + bytes) << 32 | (__u32)(before + 1);
	*account = after;
	if ((before ^ after) & QUARTERS)
		total_up(at, after);
}

/* TCP connections begun: SYN without ACK. By account; apart from it, because most frames begin none, and every frame has an account. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} begun SEC(".maps");

INLINE void begin_flow(__u32 account)
{
	__u64 *flows = bpf_map_lookup_elem(&begun, &account);
	if (flows)
		(*flows)++;
}

/* What lists say of the frames to a service; of each core, by service as latencies are. */
struct listed {
	__u64 denied;
	__u64 would_deny;
};

/* Services of a core; the loader sets it. */
volatile const __u32 services_of_core;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct listed);
} listed SEC(".maps");

/* table::lists::Listed */
enum { UNLISTED, LISTED_COUNTED, LISTED_DENIED };

/* Layouts that are counted for at once: the twin of limits::LAYOUTS. */
#define TALLIES 8

/* Who has sent a frame back. */
enum returned { BY_NOBODY, BY_SERVER, LAST_CHANCE };

/*
 * What was found out about the frame that a core is at. Not on the stack: with it, the functions of the long way would take more
 * than its 512 bytes together.
 */
struct choice {
	struct flow flow;
	__u64 source[2];         /* of the packet, where lists or limits are asked */
	__u32 service;
	__u32 destination; /* of what is forwarded: among all servers of all services */
	__u32 bytes;
	__u32 at;          /* of the payload, in the frame; by what the long way found, as is what follows */
	__u32 len;         /* of the payload */
	__u16 protocol;
	__u8 is_found;     /* it is to a cluster address */
	__u8 is_watched;
	__u8 watched_protocol;
	__u8 listed;       /* what lists say of it */
	__u8 limited;      /* what limits say of it */
	__u8 asks_odd;     /* limits of what is dear to read are to be asked */
	__u8 odd;          /* what they said */
	__u8 returned;     /* a server has sent it back: enum returned */
	__u8 unused[2];    /* no gaps: functions get it whole */
};

/* Of one core and one layout. All frames together are what was received. */
struct tally {
	__u64 frames[VERDICTS];
	__u64 by_net; /* of these, in the place of a worker */
	__u64 untimed; /* frames until one is timed */
	struct choice choice;
	__u64 window;   /* of time, in which so many */
	__u64 answered; /* were told that their packets are too large */
	__u64 unused[64 - VERDICTS - 4 - 8 - sizeof(struct choice) / 8];
	__u64 odd[8]; /* beyond [limit.odd], by kind: dropped, and from 4 on, only counted */
};
_Static_assert(sizeof(struct tally) == 512, "src/xdp/dispatch/counters.rs");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TALLIES); /* times the cores; the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

/* One frame of so many is timed; the loader sets it. */
volatile const __u32 timed_of;

/* By service of a layout; of all cores. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u32[BUCKETS]);
} latencies SEC(".maps");

COLD int record(__u32 service, __u64 ns)
{
	__u32 *buckets = bpf_map_lookup_elem(&latencies, &service);
	__u32 bucket = bucket_of(ns);
	if (buckets && bucket < BUCKETS)
		__sync_fetch_and_add(&buckets[bucket], 1);
	return 0;
}

#endif
