/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Dispatch: the whole verdict table, one frame at a time: the twin of src/path (plain, parse, select, rewrite) and of the turn in
 * src/worker.rs.
 *
 * As there, the frames that nearly all are go a short way, which makes every test that the long way makes; where one fails, or
 * the frame is another, the long way says what it is. On the short way lie eight look-ups in arrays and one hash.
 */
#ifndef ONEIP_DISPATCH_H
#define ONEIP_DISPATCH_H

#include "arena.h"
#include "counters.h"
#include "plain.h"
#include "quic.h"
#include "tokens.h"

/*
 * The interfaces besides the first one, of which own_mac is; the loader sets them. Each has flow tables of its own, for each of its queues.
 * limits::MAX_INTERFACES
 */
#define OTHERS 7

struct other {
	__u32 index; /* 0: there is none */
	__u32 first_queue;
	__u64 mac;   /* the low six bytes */
};

volatile const __u32 has_others;
volatile const struct other others[OTHERS];

/*
 * The number of the first queue of the interface that a frame came in on. Functions that are verified once: without CAP_PERFMON the verifier
 * follows each branch, be it dead or not.
 */
ONCE int first_queue(struct xdp_md *ctx)
{
	__u32 index = ctx->ingress_ifindex, queue = 0;
#pragma unroll
	for (int i = 0; i < OTHERS; i++)
		if (others[i].index == index)
			queue = others[i].first_queue;
	return queue;
}

/* The number of the queue that a frame came by among those of all interfaces. */
INLINE __u32 queue_of(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index;
	return has_others ? queue + (__u32)first_queue(ctx) : queue;
}

/* Whether a frame is to that interface besides the first one that it came in on; -1: it came in on the first one. */
ONCE int is_to_other(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	void *eth = (void *)(long)ctx->data;
	__u32 index = ctx->ingress_ifindex;
	__u64 mac = 0;
	if (eth + ETH_HLEN > end)
		return 0;
#pragma unroll
	for (int i = 0; i < OTHERS; i++)
		if (others[i].index == index)
			mac = others[i].mac;
	if (!mac)
		return -1;
	return mac == (word_at(eth) | (__u64)half_at(eth + 4) << 32);
}

/* Whether a frame is to the interface that it came in on. The header is there. */
INLINE int is_ours(struct xdp_md *ctx, const __u8 *eth)
{
	int is_other = has_others ? is_to_other(ctx) : -1;
	return is_other < 0 ? is_own(eth) : is_other;
}

/* The source MAC of a frame, as the low six bytes of a word. */
INLINE __u64 source_mac(const void *eth)
{
	return word_at(eth + 6) | (__u64)half_at(eth + 10) << 32;
}

INLINE __u64 now_ns(void)
{
	__u32 zero = 0;
	struct control *table = bpf_map_lookup_elem(&control, &zero);
	return table && table->clock ? table->clock : bpf_ktime_get_ns();
}

/* table::Ports::is_server */
INLINE int is_server(const struct head *head, __u64 mac)
{
	return find_word(&head->servers, mac | 1ULL << 48, -1ULL) != 0;
}

/* What the long way reads into: its functions have not the room for it on their stack of 512 bytes. */
struct scratch {
	struct packet packet;
	struct iphdr v4;
	__u32 unused;
	struct ipv6hdr v6;
	struct entry address; /* what the destination is found by */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

/*
 * What limits say of a packet that is dear to read. Not of one that is read again, nor in a worker's place: they have been asked.
 */
INLINE int is_beyond_odd(const struct head *head, struct choice *choice, const struct scratch *into)
{
	if (!choice->asks_odd)
		return 0;
	choice->asks_odd = 0;
	__u32 kind = choice->flow.is_v6 ? odd_v6(&into->v6) : odd_v4(&into->v4);
	return kind && odd_limit(head, choice, kind, now_ns(), 0);
}

/* What they said, when all is known of the frame: who is denied takes nothing from others. */
COLD int settle_odd(const struct head *head, struct choice *choice, struct tally *tally, __u32 verdict)
{
	__u32 odd = choice->odd;
	if (odd & (ODD_DROPPED | ODD_COUNTED))
		tally->odd[hidden((odd & ODD_KIND) - 1 + (odd & ODD_COUNTED ? 4 : 0), verdict) & 7]++;
	else if (verdict != DENIED)
		odd_limit(head, choice, odd, now_ns(), 1);
	return 0;
}

/* Any frame, in full. A verdict, or PASSED: it is not to a cluster address, or nothing is wrong with it. */
ONCE int read_frame(struct xdp_md *ctx, const struct head *head, struct choice *choice)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	__u32 zero = 0;
	struct scratch *into = bpf_map_lookup_elem(&scratch, &zero);
	if (!head || !choice || !into || (void *)(eth + 1) > end)
		return PASSED;
	__be16 proto;
	__u32 at = find_ip(eth, end, &proto);
	struct flow *flow = &choice->flow;
	__builtin_memset(flow, 0, sizeof(*flow));
	choice->is_found = 0;
	flow->is_v6 = proto == BE16(ETH_P_IPV6);
	if (!flow->is_v6 && proto != BE16(ETH_P_IP))
		return PASSED;
	__u32 room = (__u32)bpf_xdp_get_buff_len(ctx) - at;
	struct packet *packet = &into->packet;
	int wrong;
	if (flow->is_v6) {
		struct ipv6hdr *ip = &into->v6;
		if (bpf_xdp_load_bytes(ctx, at, ip, sizeof(*ip)))
			return PASSED;
		wrong = read_v6(ip, at, room, 0, packet);
		__builtin_memcpy(flow->cluster, &ip->daddr, sizeof(flow->cluster));
		__builtin_memcpy(flow->client, &ip->saddr, sizeof(flow->client));
	} else {
		struct iphdr *ip = &into->v4;
		if (bpf_xdp_load_bytes(ctx, at, ip, sizeof(*ip)))
			return PASSED;
		wrong = read_v4(ip, at, room, 0, packet);
		flow->cluster[0] = ip->daddr;
		flow->client[0] = ip->saddr;
	}
	struct entry *address = find_address(&arena, &head->addresses, &head->prefixes, flow);
	if (!address)
		return PASSED;
	into->address = *address;
	choice->is_found = 1;
	if (is_beyond_odd(head, choice, into))
		return LIMITED;
	if (!wrong)
		wrong = read_flow(ctx, packet, flow);
	if (wrong) {
		/* There is no flow in it: it is whose address it has, and not whom a quoted packet was for. */
		flow->client[0] = into->v4.saddr;
		if (flow->is_v6)
			__builtin_memcpy(flow->client, &into->v6.saddr, sizeof(flow->client));
	}
	choice->at = packet->at;
	choice->len = packet->len;
	choice->protocol = packet->protocol;
	return wrong;
}

/* path::classify::Whole::protocol: of the flow, or 0 where that is not known. */
INLINE __u8 protocol_of(const struct choice *choice)
{
	const struct flow *flow = &choice->flow;
	if (flow->upper <= LATER_FRAGMENT)
		return flow->transport;
	if (flow->is_quoted)
		return flow->is_v6 ? ICMP_V6 : ICMP_V4;
	return choice->protocol == UNKNOWN ? 0 : choice->protocol;
}

/* Whether servers of that service send back what they have no connection for. */
INLINE int may_return(const struct head *head, __u32 id)
{
	if (id == NO_SERVICE_ID)
		return 0;
	struct service *service = AT_INDEX(struct service, head->services, id);
	return service && service->flags & SECOND_CHANCE;
}

/* path::select::Selection::sort, up to the service. PASSED: the service is found, or the frame is not to a cluster address. */
ONCE int long_way(struct xdp_md *ctx, const struct head *head, struct choice *choice)
{
	if (!head || !choice)
		return PASSED;
	choice->service = NO_SERVICE_ID;
	int wrong = read_frame(ctx, head, choice);
	void *end = (void *)(long)ctx->data_end;
	void *eth = (void *)(long)ctx->data;
	if (wrong || !choice->is_found || eth + ETH_HLEN > end)
		return wrong;
	__u32 zero = 0;
	struct scratch *into = bpf_map_lookup_elem(&scratch, &zero);
	if (!into)
		return PASSED;
	choice->service = choose(&arena, &head->ports, &into->address, &choice->flow);
	if (find_word(&head->loops, source_mac(eth) | (__u64)(into->address.services.id + 1) << 48, -1ULL)) {
		if (!may_return(head, choice->service)) {
			choice->service = NO_SERVICE_ID;
			return LOOP;
		}
		choice->returned = BY_SERVER;
	}
	choice->source[0] = into->v4.saddr;
	if (choice->flow.is_v6)
		__builtin_memcpy(choice->source, &into->v6.saddr, sizeof(choice->source));
	return choice->service == NO_SERVICE_ID ? NO_SERVICE : PASSED;
}

/* What stands at a slot, or at a remainder. xdp::dispatch::arena::narrow */
INLINE __u32 at_slot(__u32 first, __u32 slot)
{
	__u32 is_wide = !(first & NARROW), at = slot << is_wide;
	__u8 *owners = cell(&arena, (first & ~NARROW) + at / CELL);
	if (!owners)
		return NOBODY;
	if (is_wide)
		return *(__u16 *)&owners[at % CELL & ~1];
	__u32 owner = owners[at % CELL];
	if (owner < 0x7f)
		return owner;
	return (owner & 0x80) << 8 | ((owner & 0x7f) == 0x7f ? NOBODY : owner & 0x7f);
}

INLINE __u32 slot_of(__u64 hash, __u32 slots)
{
	return (hash >> 32) * slots >> 32;
}

/* path::select::input, and table::Table::place. */
INLINE __u32 owner_of(const struct head *head, const struct service *service, const struct flow *flow)
{
	if (service->servers) {
		__u32 owner = at_slot(service->remainders, remainder(flow, service->servers));
		if (owner != NOBODY)
			return owner;
	}
	__u64 hash = siphash(head->key.words, flow, service->flags & BY_FLOW && flow->upper == PORTS);
	return at_slot(service->owners, slot_of(hash, service->slots));
}

#include "flows.h"

/* path::quic::place: a server of the service, or NOBODY. */
ONCE int by_connection_id(struct xdp_md *ctx, const struct head *head, const struct choice *choice)
{
	void *end = (void *)(long)ctx->data_end;
	void *eth = (void *)(long)ctx->data;
	if (!head || !choice || eth + ETH_HLEN > end)
		return NOBODY;
	/* The short way knows where it is without saying so. */
	__be16 proto;
	__u32 udp = choice->at;
	if (!udp)
		udp = find_ip(eth, end, &proto) + (choice->flow.is_v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__u32 server = server_by_id(ctx, &arena, &head->quic, choice->service, udp);
	return server == UNKNOWN_ID ? NOBODY : server;
}

/* A frame whose service is known. */
INLINE enum verdict select(struct xdp_md *ctx, struct head *head, struct choice *choice, struct hop **hop)
{
	struct service *service = AT_INDEX(struct service, head->services, choice->service);
	if (!service)
		return NO_SERVICE;
	const struct flow *flow = &choice->flow;
	__u32 owner = NOBODY;
	if (choice->returned) {
		owner = look_up_returned(ctx, head, choice);
		if (owner == NOBODY)
			return LOOP;
	} else if (service->flags & QUIC && flow->transport == UDP && flow->upper == PORTS && !flow->is_quoted)
		owner = by_connection_id(ctx, head, choice);
	if (owner == NOBODY)
		owner = owner_of(head, service, flow);
	if (owner & MIGRATING)
		owner = look_up_flows(ctx, head, choice);
	if (owner == NOBODY)
		return NO_SERVER;
	choice->destination = service->base + owner;
	*hop = AT_INDEX(struct hop, head->hops, service->hops + owner);
	return *hop && !((*hop)->egress & NOT_RESOLVED) ? FORWARDED : UNRESOLVED;
}

/*
 * table::Ports::plain_v4, plain_v6: of a frame to no port of a cluster address. The service of its port in the longest prefix that it is to, or
 * the one that has every port; whether it is to a cluster address at all stands in `is_found`. A flood to a closed port ends here.
 */
ONCE int other_service(const struct head *head, struct choice *choice)
{
	if (!head || !choice)
		return NO_SERVICE_ID;
	const struct flow *flow = &choice->flow;
	struct entry *address = find(&arena, &head->addresses, flow->cluster, port_key(flow->is_v6, 0, 0));
	if (address) {
		choice->is_found = 1;
		return address->services.service;
	}
	if (!head->prefixes.entries)
		return NO_SERVICE_ID;
	struct entry *prefix = find_prefix(&arena, &head->prefixes, flow->cluster, flow->is_v6);
	if (!prefix)
		return NO_SERVICE_ID;
	choice->is_found = 1;
	struct entry *port = find(&arena, &head->ports, prefix->address, port_of(prefix, flow->transport, flow->destination));
	return port ? port->services.service : prefix->services.service;
}

/* The service of a frame, or what becomes of it without. */
INLINE enum verdict find_service(struct xdp_md *ctx, struct head *head, struct choice *choice)
{
	choice->service = NO_SERVICE_ID;
	void *end = (void *)(long)ctx->data_end;
	void *eth = (void *)(long)ctx->data;
	if (eth + ETH_HLEN > end || !is_ours(ctx, eth))
		return PASSED;
	__u32 bytes = bpf_xdp_get_buff_len(ctx);
	choice->bytes = bytes;
	if (!is_plain(eth, end, bytes, &choice->flow) || is_server(head, source_mac(eth)))
		return long_way(ctx, head, choice);
	struct entry *port = find(&arena, &head->ports, choice->flow.cluster,
				  port_key(choice->flow.is_v6, choice->flow.transport, choice->flow.destination));
	choice->service = port ? port->services.service : other_service(head, choice);
	if (choice->service == NO_SERVICE_ID)
		return choice->is_found ? NO_SERVICE : PASSED;
	if (head->flags & (LISTED | LIMITS)) {
		choice->source[0] = choice->flow.client[0];
		choice->source[1] = choice->flow.client[1];
	}
	return PASSED;
}

#include "lists.h"
#include "limits.h"

/* What limits say of a frame: of one in a worker's place they have been asked already. */
INLINE int is_limited(const struct head *head, struct choice *choice)
{
	choice->limited = limit(head, choice, now_ns());
	return choice->limited && choice->limited < ONLY_COUNTED;
}

/* One frame. What is forwarded is written to leave by `hop`. `by_net`: in the place of a worker. */
INLINE enum verdict judge(struct xdp_md *ctx, struct head *head, struct choice *choice, struct hop **hop, const int by_net)
{
	enum verdict verdict = find_service(ctx, head, choice);
	if (choice->service == NO_SERVICE_ID)
		return verdict;
	/* They have been asked when it came from its client. */
	if (choice->returned)
		return select(ctx, head, choice, hop);
	if (head->flags & LISTED) {
		choice->listed = screen(head, choice);
		if (choice->listed == LISTED_DENIED)
			return DENIED;
	}
	if (!by_net && head->flags & LIMITS && is_limited(head, choice))
		return LIMITED;
	return select(ctx, head, choice, hop);
}

/* path::rewrite. The frame is one that was judged. */
INLINE int send(struct xdp_md *ctx, const struct hop *hop)
{
	void *end = (void *)(long)ctx->data_end;
	void *eth = (void *)(long)ctx->data;
	if (eth + ETH_HLEN > end)
		return XDP_ABORTED;
	const __u32 *macs = (const void *)hop->destination;
	__u32 *to = eth;
	to[0] = macs[0];
	to[1] = macs[1];
	to[2] = macs[2];
	__u32 egress = hop->egress & ~HAS_WAY;
	return egress ? bpf_redirect(egress, 0) : XDP_TX;
}

/* path::rewrite::mark_last_chance */
ONCE int mark_last_chance(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	void *eth = (void *)(long)ctx->data;
	if (eth + ETH_HLEN > end)
		return -1;
	__be16 proto;
	__u32 at = find_ip(eth, end, &proto);
	if (proto == BE16(ETH_P_IPV6)) {
		__u8 hop_limit = 1;
		return bpf_xdp_store_bytes(ctx, at + 7, &hop_limit, 1);
	}
	/* TTL, protocol, checksum. */
	__u16 words[2];
	if (bpf_xdp_load_bytes(ctx, at + 8, words, sizeof(words)))
		return -1;
	__u32 from = words[0], to = (from & BE16(0x00ff)) | BE16(0x0100);
	__u32 sum = (__u16)~words[1] + (__u16)~from + to;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	words[0] = to;
	words[1] = ~sum;
	return bpf_xdp_store_bytes(ctx, at + 8, words, sizeof(words));
}

#include "encap.h"
#include "watch.h"

/* All that becomes of a frame. `by_net`: in the place of a worker. */
INLINE int dispatch(struct xdp_md *ctx, const int by_net)
{
	__u32 zero = 0, core = bpf_get_smp_processor_id();
	struct control *table = bpf_map_lookup_elem(&control, &zero);
	if (!table)
		return XDP_PASS;
	struct head *head = &table->heads[table->present % HEADS];
	__u32 at = core * TALLIES + head->tally;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &at);
	if (!tally)
		return XDP_PASS;
	__u64 entered = 0;
	if (tally->untimed) {
		tally->untimed--;
	} else {
		tally->untimed = timed_of - 1;
		entered = bpf_ktime_get_ns();
	}
	struct choice *choice = &tally->choice;
	*choice = (struct choice){ .asks_odd = !by_net && head->flags & ODD_LIMITS };
	struct hop *hop = 0;
	enum verdict verdict = judge(ctx, head, choice, &hop, by_net);
	if (verdict == FORWARDED && hop && hop->egress & HAS_WAY)
		verdict = fate_of(ctx, head, choice);
	/* It was sent to us. */
	if (head->flags & WATCHED && choice->bytes)
		note(ctx, head, verdict, choice);
	if (verdict == FORWARDED && hop && hop->egress & HAS_WAY && encapsulate(ctx, head, choice))
		verdict = TX_FULL;
	tally->frames[hidden(verdict, tally->untimed) & 31]++;
	if (choice->odd)
		settle_odd(head, choice, tally, verdict);
	if (choice->listed)
		count_listed(head, core, choice->service, choice->listed);
	if (choice->limited)
		count_limited(head, core, choice->service, choice->limited);
	if (by_net)
		tally->by_net++;
	if (verdict == TOO_BIG)
		return answer(ctx, head, choice, tally);
	if (verdict != FORWARDED || !hop)
		return verdict == PASSED ? XDP_PASS : XDP_DROP;
	at = core * accounts_of_core + head->accounts + choice->destination;
	enter(at, choice->bytes);
	if (choice->flow.begins)
		begin_flow(at);
	if (entered)
		record(head->latencies + choice->service, bpf_ktime_get_ns() - entered);
	if (choice->returned == LAST_CHANCE)
		mark_last_chance(ctx);
	int action = send(ctx, hop);
	if (choice->is_watched && head->flags & WATCHED_SENT)
		put(ctx, head, choice, FORWARDED, 1);
	return action;
}

#endif
