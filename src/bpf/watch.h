/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Notes the frames that an operator watches: the twin of src/path/trace.rs and table::trace::Seen. */
#ifndef ONEIP_WATCH_H
#define ONEIP_WATCH_H

#include "arena.h"

/* limits::CAPTURE_SNAP */
#define SNAP_MOST 9216

struct seen {
	__u64 at; /* nanoseconds */
	__u32 queue;
	__u32 bytes;
	__u32 destination;
	__u16 service;
	__u8 verdict;
	__u8 protocol; /* of the flow; 0 where it is not known */
	__u32 tally;   /* of the layout whose numbers these are */
	__u16 kept;    /* bytes of the frame, which follow */
	__u8 is_sent;
	__u8 unused;
};
_Static_assert(sizeof(struct seen) == 32, "src/xdp/dispatch/events.rs");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} seen SEC(".maps");

/* Keeps what the compiler knows of a number from the verifier's tests of it. */
#define barrier_var(number) asm volatile("" : "+r"(number))

struct note {
	struct seen seen;
	__u8 frame[SNAP_MOST];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct note);
} notes SEC(".maps");

/* Writes a frame, as it is now, behind what is said of it, and both into the ring. */
ONCE int put(struct xdp_md *ctx, const struct head *head, const struct choice *choice, __u32 verdict, __u32 is_sent)
{
	__u32 zero = 0;
	struct note *note = bpf_map_lookup_elem(&notes, &zero);
	struct control *table = bpf_map_lookup_elem(&control, &zero);
	if (!note || !table || !head || !choice)
		return 0;
	__u32 bytes = bpf_xdp_get_buff_len(ctx), kept = bytes < head->snap ? bytes : head->snap;
	note->seen = (struct seen){
		.at = now_ns(),
		.queue = ctx->rx_queue_index,
		.bytes = bytes,
		.destination = choice->destination,
		.service = choice->service,
		.verdict = verdict,
		.protocol = choice->watched_protocol,
		.tally = head->tally,
		.is_sent = is_sent,
	};
	/* One less: the verifier of Linux 6.1 follows a number's bounds through this sum, and not that it is not 0. */
	__u32 less = kept - 1;
	barrier_var(less);
	if (less < SNAP_MOST && !bpf_xdp_load_bytes(ctx, 0, note->frame, less + 1))
		note->seen.kept = kept;
	else
		kept = 0;
	barrier_var(kept);
	if (kept > SNAP_MOST)
		return 0;
	if (bpf_ringbuf_output(&seen, note, sizeof(struct seen) + kept, BPF_RB_NO_WAKEUP))
		__sync_fetch_and_add(&table->unseen, 1);
	return 0;
}

/*
 * What came in, before it is rewritten: whether it is watched, and if so what becomes of it. A frame that is not to a cluster
 * address is not noted.
 */
ONCE int note(struct xdp_md *ctx, const struct head *head, __u32 verdict, struct choice *choice)
{
	if (!head || !choice || (__u64)bpf_get_prandom_u32() * head->watched_of >> 32)
		return 0;
	int wrong = read_frame(ctx, head, choice);
	const struct flow *flow = &choice->flow;
	if (!choice->is_found)
		return 0;
	if (!(head->flags & WATCHED_ALL) && (flow->is_v6 != head->watched_is_v6 || flow->client[0] != head->watched[0] ||
					     flow->client[1] != head->watched[1]))
		return 0;
	choice->is_watched = 1;
	choice->watched_protocol = wrong ? 0 : protocol_of(choice);
	int is_dropped = verdict != PASSED && verdict != FORWARDED;
	if (head->flags & WATCHED_RECEIVED && (is_dropped || !(head->flags & WATCHED_DROPPED)))
		put(ctx, head, choice, verdict, 0);
	return 0;
}

#endif
