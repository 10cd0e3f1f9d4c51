/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Notes the frames of a client that an operator watches: the twin of src/path/trace.rs and table::trace::Seen. */
#ifndef ONEIP_WATCH_H
#define ONEIP_WATCH_H

#include "arena.h"

struct seen {
	__u64 at; /* nanoseconds */
	__u32 queue;
	__u32 bytes;
	__u32 destination;
	__u16 service;
	__u8 verdict;
	__u8 protocol; /* of the flow; 0 where it is not known */
	__u32 tally;   /* of the layout whose numbers these are */
	__u32 unused;
};
_Static_assert(sizeof(struct seen) == 32, "src/xdp/dispatch/events.rs");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} seen SEC(".maps");

/* A frame that finds no room is not noted, nor is one that is not to a cluster address. */
ONCE int note(struct xdp_md *ctx, const struct head *head, __u32 verdict, struct choice *choice)
{
	if (!head || !choice)
		return 0;
	__u32 bytes = choice->bytes, destination = choice->destination, service = choice->service;
	int wrong = read_frame(ctx, head, choice);
	const struct flow *flow = &choice->flow;
	if (!choice->is_found || flow->is_v6 != head->watched_is_v6 || flow->client[0] != head->watched[0] ||
	    flow->client[1] != head->watched[1])
		return 0;
	struct seen *event = bpf_ringbuf_reserve(&seen, sizeof(*event), 0);
	if (!event)
		return 0;
	*event = (struct seen){
		.at = now_ns(),
		.queue = ctx->rx_queue_index,
		.bytes = bytes,
		.destination = destination,
		.service = service,
		.verdict = verdict,
		.protocol = wrong ? 0 : protocol_of(choice),
		.tally = head->tally,
	};
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#endif
