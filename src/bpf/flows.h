/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where frames go whose slot is migrating: the twin of src/path/flow_table.rs and table::build::migration::Kept. Included by
 * dispatch.h, whose long way it takes again: few frames come here.
 */
#ifndef ONEIP_FLOWS_H
#define ONEIP_FLOWS_H

#include "flow_table.h"

/* What a service selects by, or has selected by: table::Owners. */
struct owners {
	struct key key;
	__u32 slots;
	__u32 flags;       /* BY_FLOW */
	__u32 first;       /* cell of the slots, or of the previous owners */
	__u32 servers;     /* 0: by hash */
	__u32 remainders;  /* first cell */
	__u32 is_learning; /* of an open change */
};

#define CHANGES 8

/* table::build::migration::Kept. */
struct moves {
	struct owners previous; /* `first` 0: by the chain */
	__u64 horizon;
	__u32 changes;
	__u32 until_closed;
	struct owners chain[CHANGES];
	__u32 earlier_changes;
	__u32 unused;
	struct owners earlier[CHANGES]; /* where servers send back what they have no connection for */
};
_Static_assert(sizeof(struct moves) == 976, "src/xdp/dispatch/layout.rs");

/* table::build::migration::PreviousOwner: 16 bits of server or NOBODY, these, and ticks. */
#define LEARNING (1ULL << 16)
#define SETTLED (1ULL << 17)
#define SINCE 18

#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10

/* path::classify::Act */
enum act { BEGIN, GO, CLOSE, ABORT, REPORT, PART, DATAGRAM };

/* path::classify::Whole, but for the flow. */
struct whole {
	__u8 act;
	__u8 has_data;
	__u16 unused;
	__u32 sequence; /* in steps */
	__u32 position; /* of the client behind the segment, in steps */
};

/* path::classify::whole. 0, or the frame is no longer what it was. */
INLINE int read_whole(struct xdp_md *ctx, const struct head *head, struct choice *choice, struct whole *whole)
{
	const struct flow *flow = &choice->flow;
	if (read_frame(ctx, head, choice) || !choice->is_found)
		return -1;
	whole->act = DATAGRAM;
	if (flow->is_quoted && (flow->upper == PORTS || flow->upper == LATER_FRAGMENT)) {
		whole->act = REPORT;
	} else if (flow->transport == TCP && (flow->upper == FIRST_FRAGMENT || flow->upper == LATER_FRAGMENT)) {
		whole->act = PART;
	} else if (flow->transport == TCP && flow->upper == PORTS) {
		__u32 words[4];
		if (bpf_xdp_load_bytes(ctx, choice->at, words, sizeof(words)))
			return -1;
		__u32 flags = words[3] >> 8 & 0xff, sequence = BE32(words[1]);
		__u32 data = choice->len - ((words[3] & 0xf0) >> 2);
		__u32 next = sequence + data + ((flags & SYN) != 0) + ((flags & FIN) != 0);
		if ((flags & (SYN | ACK)) == SYN) {
			/* What a SYN carries may be refused (RFC 7413), and come again. */
			whole->act = BEGIN;
			next = sequence + 1;
		} else {
			whole->act = flags & RST ? ABORT : flags & FIN ? CLOSE : GO;
		}
		whole->has_data = data > 0;
		whole->sequence = sequence >> STEP;
		whole->position = next >> STEP;
	}
	return 0;
}

/* path::classify::Whole::name: what tells the flow from all others. */
ONCE __u64 name_of(const struct key *key, const struct choice *choice)
{
	if (!key || !choice)
		return 0;
	struct flow named = choice->flow;
	if (named.upper != PORTS) {
		named.source = 0;
		named.destination = 0;
	}
	named.transport = protocol_of(choice);
	return siphash(key->words, &named, 1);
}

/* path::classify::Whole::hash: what a slot follows from. */
ONCE __u64 hash_of(const struct key *key, __u32 flags, const struct choice *choice)
{
	if (!key || !choice)
		return 0;
	if (flags & BY_FLOW && choice->flow.upper == PORTS)
		return name_of(key, choice);
	return siphash(key->words, &choice->flow, 0);
}

/* table::Owners::find */
COLD __u32 find_owner(const struct owners *owners, const struct choice *choice)
{
	if (owners->servers) {
		__u32 owner = at_slot(owners->remainders, remainder(&choice->flow, owners->servers));
		if ((owner & ~MIGRATING) != NOBODY)
			return owner;
	}
	return at_slot(owners->first, slot_of(hash_of(&owners->key, owners->flags, choice), owners->slots));
}

/* table::build::migration::Kept::previous_owner */
COLD __u64 previous_owner_of(const struct moves *moves, const struct choice *choice, __u32 present)
{
	const struct owners *previous = &moves->previous;
	if (previous->first) {
		__u32 slot = slot_of(hash_of(&previous->key, previous->flags, choice), previous->slots);
		__u64 *kept_by = AT_INDEX(__u64, previous->first, slot);
		return kept_by ? *kept_by : NOBODY;
	}
	__u64 kept_by = present | (moves->changes ? 0 : SETTLED);
	for (__u32 i = 0; i < CHANGES; i++) {
		if (i >= moves->changes)
			break;
		const struct owners *before = &moves->chain[i];
		/* Read here, or clang finds its place anew behind the loop, for which the verifier wants CAP_PERFMON. */
		__u32 is_learning = *(volatile const __u32 *)&before->is_learning;
		__u32 owner = find_owner(before, choice);
		if (owner & MIGRATING && (owner & ~MIGRATING) != NOBODY) {
			kept_by = (owner & ~MIGRATING) | (is_learning ? LEARNING : 0);
			break;
		}
	}
	return kept_by | moves->horizon << SINCE;
}

/* table::ServiceTable::select: who gets new connections. */
COLD __u32 present_of(const struct head *head, const struct service *service, const struct choice *choice)
{
	if (service->servers) {
		__u32 owner = at_slot(service->remainders, remainder(&choice->flow, service->servers)) & ~MIGRATING;
		if (owner != NOBODY)
			return owner;
	}
	return at_slot(service->owners, slot_of(hash_of(&head->key, service->flags, choice), service->slots)) & ~MIGRATING;
}

/* path::flow_table::Seen; and with a flow of which only a SYN is known, that something comes back which follows that. */
enum known { ONE_OF_IT, ITS_END, ANOTHERS };
#define SEEN 3
#define IS_BACK 64

/* path::flow_table::begin */
INLINE enum known begin(struct memory *flow, const struct whole *whole, __u64 now)
{
	if (flow->stage == BEGUN) {
		if (is_over(flow, now))
			return ITS_END;
		if (whole->position == flow->position || is_silent(flow, FLOW_SYN_RETRY, now)) {
			flow->position = whole->position;
			flow->seen = now;
		}
	} else if (flow->stage == CLOSING && is_silent(flow, FLOW_REOPEN, now)) {
		return ITS_END;
	}
	return ONE_OF_IT;
}

/* path::flow_table::go_on */
INLINE void go_on(struct memory *flow, const struct whole *whole, __u64 now)
{
	int fits = !flow->disputed && is_near(flow->position, whole->sequence);
	if (whole->act == GO) {
		if (flow->stage == SHOWN || (flow->stage == CLOSING && (whole->has_data || !fits)))
			flow->stage = ESTABLISHED;
	} else if (fits) {
		flow->stage = CLOSING;
	}
	if (!fits) {
		flow->disputed = 1;
		if (whole->act == GO)
			flow->seen = now;
		return;
	}
	flow->position = furthest(flow->position, whole->position);
	flow->seen = now;
}

/* path::flow_table::seen: what a packet is for a flow that is known, which becomes what it is then. */
INLINE int becomes(struct memory *flow, const struct whole *whole, __u64 now)
{
	if (!flow || !whole)
		return ANOTHERS;
	switch (whole->act) {
	case REPORT:
	case PART:
		return ONE_OF_IT;
	case DATAGRAM:
		if (is_silent(flow, FLOW_IDLE, now))
			return ITS_END;
		flow->stage = DATAGRAMS;
		flow->seen = now;
		return ONE_OF_IT;
	case BEGIN:
		return begin(flow, whole, now);
	}
	if (flow->stage != BEGUN) {
		go_on(flow, whole, now);
		return ONE_OF_IT;
	}
	if (is_over(flow, now))
		return ITS_END;
	/* The first segment behind a SYN: path::flow_table::first. */
	__s32 by = ahead(whole->sequence, flow->position);
	if (by < 0 || by > WINDOW)
		return ANOTHERS;
	flow->stage = whole->act == GO ? ESTABLISHED : CLOSING;
	flow->position = furthest(flow->position, whole->position);
	flow->seen = now;
	return ONE_OF_IT;
}

/* path::flow_table::comes_back */
INLINE int comes_back(const struct memory *syn, const struct whole *whole)
{
	if (whole->act == BEGIN)
		return whole->position == syn->position;
	return whole->act == GO || whole->act == CLOSE || whole->act == ABORT;
}

ONCE int seen_of(struct memory *flow, const struct whole *whole, __u64 now)
{
	if (!flow || !whole)
		return ANOTHERS;
	int is_back = comes_back(flow, whole);
	return becomes(flow, whole, now) | (is_back ? IS_BACK : 0);
}

/* What a flow that is not remembered is remembered as: -1: not at all. */
ONCE __s64 stage_of(const struct whole *whole, __u32 present, __u32 previous, int until_closed)
{
	if (!whole)
		return -1;
	if (whole->act == BEGIN || whole->act == DATAGRAM)
		return BEGUN;
	if (whole->act == GO && previous != NOBODY && previous != present)
		return until_closed ? SHOWN : SPARE;
	return -1;
}

/* Where a flow goes of which nothing is known: a server, or NOBODY. */
ONCE __u64 server_of(const struct whole *whole, __u64 kept_by, __u32 present)
{
	if (!whole)
		return NOBODY;
	__u64 previous = kept_by & 0xffff;
	if (whole->act == BEGIN || previous == NOBODY || (whole->act == DATAGRAM && !(kept_by & LEARNING)))
		return present;
	return previous;
}

/* What is remembered at a place. -1: nothing. */
ONCE int recall(__u32 queue, __u64 hash, __u32 place, struct memory *flow)
{
	struct remembering *entry = entry_at(queue, hash, place % (2 * BUCKET), place / (2 * BUCKET) & 1);
	if (!entry || !flow)
		return -1;
	unpack(entry, flow);
	return 0;
}

/* The destination of a server that keeps connections, in the upper half, or 0. */
ONCE __u64 keeper_of(const struct head *head, __u32 ident)
{
	return head ? find_word(&head->keeping, ident, 0xffffffff) : 0;
}

/* In `settle`, beside a place: it is to be forgotten. */
#define GONE 128

/* The flow at a place is so now, has a place among flows from here on, or is forgotten. */
ONCE int settle(__u32 queue, __u64 hash, const struct memory *flow, __u64 horizon, __u32 how)
{
	__u32 part = how / (2 * BUCKET) & 1;
	struct remembering *entry = entry_at(queue, hash, how % (2 * BUCKET), part);
	if (!entry || !flow)
		return 0;
	if (how & GONE) {
		forget(queue, entry, part);
	} else if (how & IS_BACK && part == SYNS) {
		forget(queue, entry, part);
		put_flow(queue, hash, flow, horizon, FLOWS);
	} else {
		entry->state = packed(flow);
	}
	return 0;
}

/* As `settle`, with less of the stack. */
ONCE int forget_place(__u32 queue, __u64 hash, __u32 place)
{
	__u32 part = place / (2 * BUCKET) & 1;
	struct remembering *entry = entry_at(queue, hash, place % (2 * BUCKET), part);
	if (entry)
		forget(queue, entry, part);
	return 0;
}

/* In `find_kept`, beside a queue: a connection begins. */
#define BEGINS 0x80000000

/*
 * Where a flow is remembered that its server keeps; the places of SYNs are behind those of flows. -1: it is not. What is known of a connection
 * that begins anew, where nothing is remembered of it, is of a server that is gone: that may come back, and would get this one.
 */
ONCE int find_kept(const struct head *head, const struct service *service, __u32 begins, __u64 hash, __u64 kept_by)
{
	if (!head || !service)
		return -1;
	__u32 queue = begins & ~BEGINS;
	for (__u32 part = FLOWS; part <= SYNS; part++) {
		struct memory flow = {};
		int at = find_flow(queue, hash, kept_by >> SINCE, part), place = at + part * 2 * BUCKET;
		__u64 keeper = at < 0 || recall(queue, hash, place, &flow) ? 0 : keeper_of(head, flow.server);
		/* 64 bits, or clang puts it where a pointer was, for which the verifier wants CAP_PERFMON. */
		__u64 of = (keeper >> 32) - service->base;
		int lasts = !(kept_by & SETTLED) || !is_silent(&flow, FLOW_ESTABLISHED_IDLE, now_ns() >> TICK);
		if (keeper && of < service->count && lasts)
			return place;
		if (at >= 0 && begins & BEGINS && kept_by & SETTLED)
			forget_place(queue, hash, place);
	}
	return -1;
}

/* path::flow_table::look_up: a frame whose slot is marked. Its server, or NOBODY. */
ONCE int look_up_flows(struct xdp_md *ctx, const struct head *head, struct choice *choice)
{
	if (!head || !choice)
		return NOBODY;
	const struct service *service = AT_INDEX(struct service, head->services, choice->service);
	if (!service)
		return NOBODY;
	struct whole whole = {};
	__u32 at = service->moves;
	struct moves *moves = bpf_map_lookup_elem(&arena, &at);
	if (!moves || !at || read_whole(ctx, head, choice, &whole))
		return NOBODY;
	__u64 now = now_ns() >> TICK;
	__u32 queue = queue_of(ctx);
	__u32 present = present_of(head, service, choice);
	__u64 kept_by = previous_owner_of(moves, choice, present), name = name_of(&head->flow_key, choice);
	__u32 begins = whole.act == BEGIN ? BEGINS : 0;
	int remembers = !(kept_by & SETTLED), place = find_kept(head, service, queue | begins, name, kept_by);
	struct memory flow = {};
	__u64 keeper = place < 0 || recall(queue, name, place, &flow) ? 0 : keeper_of(head, flow.server);
	__u32 of = (keeper >> 32) - service->base;
	if (keeper && of < service->count) {
		int seen = seen_of(&flow, &whole, now);
		/* Without `remembers` it would go there if it were forgotten. */
		int goes_there = !remembers && present == of;
		if ((seen & SEEN) == ONE_OF_IT) {
			settle(queue, name, &flow, head->horizon, place | (goes_there ? GONE : seen & IS_BACK));
			return of;
		}
		if (seen & 1)
			settle(queue, name, &flow, 0, place | GONE);
		else
			remembers = 0;
	}
	__u64 server = server_of(&whole, kept_by, present);
	if (server == NOBODY)
		return NOBODY;
	__s64 stage = stage_of(&whole, present, kept_by & 0xffff, moves->until_closed);
	__u32 *ident = AT_INDEX(__u32, head->idents, service->base + server);
	if (ident && stage >= 0 && remembers) {
		flow = (struct memory){ .server = *ident, .stage = stage, .position = whole.position, .seen = now };
		put_flow(queue, name, &flow, head->horizon, whole.act == BEGIN ? SYNS : FLOWS);
	}
	return server;
}

/* The server's MAC, as the low six bytes of a word; 0: it is not known. */
ONCE __u64 mac_of(const struct head *head, const struct choice *choice, __u32 server)
{
	if (!head || !choice)
		return 0;
	const struct service *service = AT_INDEX(struct service, head->services, choice->service);
	struct hop *hop = service ? AT_INDEX(struct hop, head->hops, service->hops + server) : 0;
	if (!hop || hop->egress & NOT_RESOLVED)
		return 0;
	return word_at(hop->destination) | (__u64)half_at(hop->destination + 4) << 32;
}

/* Whoever keeps what is not remembered, who has lost the client in each change, and who has it: in this order, some of them twice. */
#define CANDIDATES (CHANGES + 2)

INLINE int candidate_of(const struct head *head, const struct choice *choice, __u32 number)
{
	if (!head || !choice)
		return NOBODY;
	const struct service *service = AT_INDEX(struct service, head->services, choice->service);
	if (!service)
		return NOBODY;
	if (number == CANDIDATES - 1)
		return present_of(head, service, choice);
	__u32 at = service->moves;
	struct moves *moves = bpf_map_lookup_elem(&arena, &at);
	if (!moves || !at)
		return NOBODY;
	if (!number)
		return previous_owner_of(moves, choice, present_of(head, service, choice)) & 0xffff;
	if (number > moves->earlier_changes)
		return NOBODY;
	__u32 owner = find_owner(&moves->earlier[(number - 1) & (CHANGES - 1)], choice);
	return owner & MIGRATING ? owner & ~MIGRATING : NOBODY;
}

/* Whether one of four half words is that: whether one is 0 where it is taken away (Warren, Hacker's Delight, section 6-1). */
INLINE int is_among(__u64 four, __u64 server)
{
	__u64 lanes = four ^ server * 0x0001000100010001ULL;
	return ((lanes - 0x0001000100010001ULL) & ~lanes & 0x8000800080008000ULL) != 0;
}

/* Whom a frame that was sent back has been asked of, and who is next. */
struct asking {
	__u64 asked[3]; /* in half words, and no array of them: the verifier wants CAP_PERFMON for a place that is known on some ways only */
	__u64 from;     /* the MAC of who has sent it back */
	__u32 back;
	__u32 next; /* and MORE, if others come behind */
};
#define MORE 0x10000

/* One more that may have the connection. A function of its own: the verifier goes through it once, and not in each turn. */
ONCE int consider(const struct head *head, const struct choice *choice, struct asking *asking, __u32 number)
{
	if (!head || !choice || !asking)
		return 0;
	__u32 server = candidate_of(head, choice, number);
	__u64 mark = server + 1;
	if (server >= NOBODY)
		return 0;
	if (is_among(asking->asked[0], mark) || is_among(asking->asked[1], mark) || is_among(asking->asked[2], mark))
		return 0;
	asking->asked[2] = asking->asked[2] << 16 | asking->asked[1] >> 48;
	asking->asked[1] = asking->asked[1] << 16 | asking->asked[0] >> 48;
	asking->asked[0] = asking->asked[0] << 16 | mark;
	__u64 mac = mac_of(head, choice, server);
	if (!mac)
		return 0;
	if (asking->back == NOBODY) {
		if (mac == asking->from)
			asking->back = server;
	} else if (asking->next == NOBODY) {
		asking->next = server;
	} else {
		asking->next |= MORE;
	}
	return 0;
}

/* It went to that server, which has sent nothing back yet. */
ONCE int remember_returned(struct xdp_md *ctx, const struct head *head, const struct choice *choice, __u32 server,
			   __u32 position)
{
	if (!head || !choice)
		return 0;
	const struct service *service = AT_INDEX(struct service, head->services, choice->service);
	if (!service)
		return 0;
	__u32 at = service->moves;
	struct moves *moves = bpf_map_lookup_elem(&arena, &at);
	__u32 *ident = AT_INDEX(__u32, head->idents, service->base + server);
	if (!moves || !at || !ident)
		return 0;
	if (previous_owner_of(moves, choice, present_of(head, service, choice)) & SETTLED)
		return 0;
	struct memory flow = { .server = *ident, .stage = SHOWN, .position = position, .seen = now_ns() >> TICK };
	put_flow(queue_of(ctx), name_of(&head->flow_key, choice), &flow, head->horizon, FLOWS);
	return 0;
}

/*
 * path::second_chance::look_up: a frame that a server has sent back. Who gets it, or NOBODY. Each candidate counts where it stands
 * first; those that are not resolved do not.
 */
ONCE int look_up_returned(struct xdp_md *ctx, const struct head *head, struct choice *choice)
{
	if (!head || !choice)
		return NOBODY;
	struct whole whole = {};
	if (read_whole(ctx, head, choice, &whole) || whole.act < GO || whole.act > ABORT)
		return NOBODY;
	void *end = (void *)(long)ctx->data_end;
	void *eth = (void *)(long)ctx->data;
	if (eth + ETH_HLEN > end)
		return NOBODY;
	struct asking asking = { .from = source_mac(eth), .back = NOBODY, .next = NOBODY };
	for (__u32 i = 0; i < CANDIDATES; i++)
		consider(head, choice, &asking, i);
	if (asking.back != NOBODY && !(asking.next & MORE))
		choice->returned = LAST_CHANCE;
	if (asking.next == NOBODY)
		return asking.back;
	if (whole.act == GO)
		remember_returned(ctx, head, choice, asking.next & ~MORE, whole.position);
	return asking.next & ~MORE;
}

#endif
