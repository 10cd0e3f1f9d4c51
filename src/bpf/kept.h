/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the programs of servers have in common: a table that is put in its place whole, and what is counted: the twin of
 * src/xdp/program.rs.
 */
#ifndef ONEIP_KEPT_H
#define ONEIP_KEPT_H

#include "parse.h"
#include "table.h"
#include "verdict.h"

/* Frames, by verdict. FORWARDED is what this server keeps. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* What was kept of each service, by its account. */
struct kept {
	__u64 frames;
	__u64 bytes; /* of whole frames, Ethernet header included */
	__u64 flows; /* TCP connections begun: SYN without ACK */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, struct kept);
} kept SEC(".maps");

/* A table is an array of cells, the first of which is its head. Its size is its own (BPF_F_INNER_MAP). */
struct cells {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__type(key, __u32);
	__type(value, __u64[CELL / 8]);
};

/* The table. The loader puts another in its place whole: a frame is decided by one table from beginning to end. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__array(values, struct cells);
} table SEC(".maps");

INLINE void count(struct xdp_md *ctx, __u32 account, const struct flow *flow)
{
	struct kept *sum = bpf_map_lookup_elem(&kept, &account);
	if (!sum)
		return;
	sum->frames++;
	sum->bytes += bpf_xdp_get_buff_len(ctx);
	sum->flows += flow->upper == PORTS && flow->begins;
}

INLINE void count_verdict(__u32 verdict)
{
	__u64 *frames = bpf_map_lookup_elem(&counters, &verdict);
	if (frames)
		(*frames)++;
}

#endif
