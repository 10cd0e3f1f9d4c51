/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Filter: broadcast-based dispatch, on a server. Of the frames to a cluster address, which every server of the cluster
 * receives, it keeps those of this server's clients and drops the others'. Everything else goes on to the kernel, untouched.
 *
 * What a frame says is judged as src/path does (parse, select), and a client has the slot that src/hash gives it: one
 * definition, and tests/filter holds the two together. Whose a slot is stands in a table that src/engine/filter/generation.rs
 * writes.
 */
#include "hash.h"
#include "kept.h"
#include "plain.h"
#include "select.h"
#include "sockets.h"

/*
 * A table is the head; the directory, each cell a bucket of entries; the services; then the slots of each service, two bits a
 * slot.
 */
struct head {
	__u64 key[4];     /* SipHash's state before the first word */
	struct directory directory;
	struct prefixes prefixes;
	__u32 services;   /* first cell */
};

struct service {
	__u32 slots;
	__u32 owners;      /* first cell of the slots */
	__u32 moves;       /* first cell of who keeps what moves; 0: nothing does */
	__u32 servers;     /* selection by remainder: how many; 0: by hash */
	__u32 remainders;  /* the cell of these */
	__u32 flags;
	__u32 account;
	__u32 unused;
};

#define BY_FLOW 1
/* Every client moves. */
#define ALL_MOVE 2

/*
 * Whose a slot is. LENT: this server's, but the first choice of another one, which may come back: it is this server's as
 * long as the lease is renewed. Where clients move: who has their connections, and NOBODY where none move.
 */
enum owner { NOBODY, MINE, THEIRS, LENT };

/* Until when slots that are LENT are this server's, by bpf_ktime_get_ns. A process that hangs does not renew it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lease SEC(".maps");

/* Until when a handshake may have begun unnoticed, by bpf_ktime_get_ns: the table was another one, or the program. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} unnoticed SEC(".maps");

/*
 * The sequence numbers of the SYNs that were kept while their clients moved. A SYN can be forged: then the client, which has a connection with
 * another server, answers what this server's kernel says with numbers of that connection, and the kernel would reset it
 * (net/ipv4/tcp_minisocks.c, tcp_check_req). The kernel has a few thousand handshakes at a time (net.ipv4.tcp_max_syn_backlog).
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct bpf_sock_tuple);
	__type(value, __u32);
} handshakes SEC(".maps");

/* As much as a client may send before its handshake is over: a window that is not scaled yet (RFC 7323, section 2.2). */
#define FIRST_WINDOW 65535

/* A SYN is kept. Where the kernel goes on with the handshake of an earlier one, that one counts. */
COLD void note_handshake(struct xdp_md *ctx, const struct packet *packet, const struct flow *flow)
{
	struct bpf_sock_tuple tuple = {};
	__be32 sequence;
	__u64 how = find_socket(ctx, packet, flow, 0) == HANDSHAKE ? BPF_NOEXIST : BPF_ANY;
	if (bpf_xdp_load_bytes(ctx, packet->at + 4, &sequence, sizeof(sequence)))
		return;
	sequence = BE32(sequence);
	tuple_of(flow, &tuple);
	bpf_map_update_elem(&handshakes, &tuple, &sequence, how);
}

/* Whether the segment continues the handshake that is here. What an ICMP error quotes has the kernel reset nothing. */
COLD int is_of_handshake(struct xdp_md *ctx, const struct packet *packet, const struct flow *flow)
{
	struct bpf_sock_tuple tuple = {};
	__u32 zero = 0;
	__be32 sequence;
	if (flow->is_quoted || bpf_xdp_load_bytes(ctx, packet->at + 4, &sequence, sizeof(sequence)))
		return 1;
	tuple_of(flow, &tuple);
	__u32 *first = bpf_map_lookup_elem(&handshakes, &tuple);
	if (first)
		return BE32(sequence) - *first <= FIRST_WINDOW;
	__u64 *until = bpf_map_lookup_elem(&unnoticed, &zero);
	return until && bpf_ktime_get_ns() < *until;
}

/* What stands at a slot: four of them a byte. */
INLINE __u32 at_slot(void *map, __u32 first, __u32 slot)
{
	__u8 *slots = cell(map, first + slot / (4 * CELL));
	if (!slots)
		return NOBODY;
	return slots[slot / 4 & (CELL - 1)] >> (slot & 3) * 2 & 3;
}

/*
 * path::follow, with the kernel for a memory. While a client moves, a TCP connection is where its socket is, and one that
 * begins is the owner's. A segment without a socket here, or beside the handshake that is here, is dropped, though this server be the owner:
 * the kernel would answer with a reset, and end a connection that another server has. Of a fragment no socket can be found: it goes to who kept
 * the connections. Other protocols are the owner's at once.
 */
INLINE __u32 follow(struct xdp_md *ctx, const struct packet *packet, const struct flow *flow, __u32 owner, __u32 keeper)
{
	if (flow->upper > LATER_FRAGMENT || flow->transport != TCP)
		return owner;
	if (flow->begins) {
		if (owner == MINE)
			note_handshake(ctx, packet, flow);
		return owner;
	}
	if (flow->upper != PORTS)
		return keeper;
	int found = find_socket(ctx, packet, flow, owner == MINE);
	if (found == CONNECTION || (found == HANDSHAKE && is_of_handshake(ctx, packet, flow)))
		return MINE;
	return owner == MINE ? THEIRS : owner;
}

INLINE int is_leased(void)
{
	__u32 zero = 0;
	__u64 *until = bpf_map_lookup_elem(&lease, &zero);
	return until && bpf_ktime_get_ns() < *until;
}

/*
 * Whose a client is, and who keeps its connections where it moves. Whole words: a part of one, kept where a pointer was, takes CAP_PERFMON
 * (kernel/bpf/verifier.c, check_stack_write_fixed_off).
 */
struct whose {
	__u64 owner;
	__u64 keeper;
};

/* path::select::input, and table::Table::place. */
INLINE struct whose whose(void *map, const struct head *head, const struct service *service, const struct flow *flow)
{
	__u64 owner = NOBODY, keeper = NOBODY;
	__u32 servers = service->servers;
	if (servers)
		owner = at_slot(map, service->remainders, remainder(flow, servers));
	if (owner == NOBODY) {
		__u64 by_flow = service->flags & BY_FLOW && flow->upper == PORTS;
		asm volatile("" : "+r"(by_flow));
		__u64 hash = siphash(head->key, flow, by_flow);
		__u32 slot = (hash >> 32) * service->slots >> 32;
		owner = at_slot(map, service->owners, slot);
		if (service->moves)
			keeper = at_slot(map, service->moves, slot);
	}
	asm volatile("" : "+r"(owner), "+r"(keeper));
	return (struct whose){ owner, keeper };
}

/* Who gets the client. */
INLINE __u32 select(struct xdp_md *ctx, void *map, const struct head *head, const struct service *service,
		    const struct packet *packet, const struct flow *flow)
{
	struct whose client = whose(map, head, service, flow);
	__u64 owner = client.owner, keeper = client.keeper;
	if (owner == LENT) {
		owner = MINE;
		/* Whose they are may be back. What was begun here stays while its socket does. */
		if (!is_leased())
			owner = keeper = THEIRS;
	}
	if (service->flags & ALL_MOVE)
		keeper = owner;
	else if (keeper == NOBODY)
		return owner;
	return follow(ctx, packet, flow, owner, keeper);
}

INLINE struct service *service_at(void *map, const struct head *head, __u16 id)
{
	return AT_INDEX_OF(map, struct service, head->services, id);
}

/* Of a frame whose header is there. */
INLINE int is_ours(const struct ethhdr *eth)
{
	return eth->h_dest[0] & 1 || is_own(eth->h_dest);
}

/* No verdict: the long way has it. */
#define NOT_PLAIN VERDICTS

/*
 * The frames that nearly all are, of clients that do not move: what the long way says of them too. A frame too short to hold a destination
 * address has none, and is the kernel's.
 */
ONCE int short_way(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > end || !is_ours(eth))
		return PASSED;
	struct flow flow = {};
	if (!is_plain(eth, end, bpf_xdp_get_buff_len(ctx), &flow))
		return NOT_PLAIN;
	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&table, &zero);
	if (!map)
		return PASSED;
	struct head *head = cell(map, 0);
	if (!head)
		return PASSED;
	struct entry *port = find(map, &head->directory, flow.cluster, port_key(flow.is_v6, flow.transport, flow.destination));
	struct service *service = port ? service_at(map, head, port->services.service) : 0;
	if (!service || service->flags & ALL_MOVE)
		return NOT_PLAIN;
	struct whose client = whose(map, head, service, &flow);
	if (client.owner == LENT || client.keeper != NOBODY)
		return NOT_PLAIN;
	if (client.owner != MINE)
		return client.owner == THEIRS ? OTHER_SERVER : NO_SERVER;
	count(ctx, service->account, &flow);
	return FORWARDED;
}

/* Any frame. */
ONCE int long_way(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > end || !is_ours(eth))
		return PASSED;
	__be16 proto;
	__u32 at = find_ip(eth, end, &proto);
	struct flow flow = { .is_v6 = proto == BE16(ETH_P_IPV6) };
	if (!flow.is_v6 && proto != BE16(ETH_P_IP))
		return PASSED;

	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&table, &zero);
	if (!map)
		return PASSED;
	struct head *head = cell(map, 0);
	if (!head)
		return PASSED;

	struct packet packet = {};
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip = {};
	__u32 room = (__u32)bpf_xdp_get_buff_len(ctx) - at;
	if (flow.is_v6) {
		if (load(ctx, at, &ip.v6, sizeof(ip.v6)))
			return PASSED;
		__builtin_memcpy(flow.cluster, &ip.v6.daddr, sizeof(flow.cluster));
	} else {
		if (load(ctx, at, &ip.v4, sizeof(ip.v4)))
			return PASSED;
		flow.cluster[0] = ip.v4.daddr;
	}
	struct entry *address = find_address(map, &head->directory, &head->prefixes, &flow);
	if (!address)
		return PASSED;
	int wrong = flow.is_v6 ? read_v6(&ip.v6, at, room, 0, &packet) : read_v4(&ip.v4, at, room, 0, &packet);
	if (!wrong)
		wrong = read_flow(ctx, &packet, &flow);
	if (wrong)
		return wrong;

	__u16 id = choose(map, &head->directory, address, &flow);
	if (id == NO_SERVICE_ID)
		return NO_SERVICE;
	struct service *service = service_at(map, head, id);
	if (!service)
		return NO_SERVICE;
	__u32 owner = select(ctx, map, head, service, &packet, &flow);
	if (owner != MINE)
		return owner == THEIRS ? OTHER_SERVER : NO_SERVER;
	count(ctx, service->account, &flow);
	return FORWARDED;
}

SEC("xdp.frags")
int filter(struct xdp_md *ctx)
{
	__u32 verdict = short_way(ctx);
	if (verdict == NOT_PLAIN)
		verdict = long_way(ctx);
	count_verdict(verdict);
	if (verdict == PASSED)
		return XDP_PASS;
	if (verdict != FORWARDED)
		return XDP_DROP;
	/* Linux TCP takes nothing that came in a broadcast or multicast frame (net/ipv4/tcp_ipv4.c, tcp_v4_rcv: pkt_type). */
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > end)
		return XDP_PASS;
#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		eth->h_dest[i] = own_mac[i];
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
