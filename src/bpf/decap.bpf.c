/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Decap: the servers' end of the dispatchers' tunnels, where the kernel has no devices for them. It takes off what a dispatcher has
 * put in front of a client's packet, and hands the packet to this host's stack. Everything else goes on to the kernel, untouched.
 *
 * Taken off is: an IPv4 or IPv6 header, alone (RFC 2003, 2473, 4213), with UDP behind it (GUE variant 1, draft-ietf-intarea-gue-09
 * section 4) or with GRE without options (RFC 2784), to an address of this server, in front of a packet to a cluster address that is
 * delivered so. With L3DSR no header is put in front; the packet is to the server's own address, and DSCP says to which cluster
 * address it was.
 *
 * And it sends back what came without a tunnel, to a service with `second_chance`, if it is a segment of a TCP connection that this
 * server does not have: src/path/second_chance.rs says what becomes of it.
 *
 * What comes to which end stands in a table that src/engine/decap/table.rs writes. An outer packet in fragments is the kernel's: here
 * nothing waits for the rest of it.
 */
#include "kept.h"
#include "select.h"
#include "sockets.h"

/* The forms of src/engine/decap/table.rs. */
enum form { IPIP = 1, GUE = 2, GRE = 4, L3DSR = 8, SECOND_CHANCE = 16 };

/* Numbers of protocols (IANA). */
enum { IPV4_IN = 4, IPV6_IN = 41, GRE_IN = 47, DESTINATION_OPTIONS = 60 };

/* In the directory of ends, a DSCP stands as a port of this protocol, which IANA keeps free. */
#define BY_DSCP 255

struct head {
	struct directory directory; /* cluster addresses, and their ports */
	struct directory ends;      /* own addresses, the ports of GUE there, and each DSCP */
	__u32 services;             /* first cell */
	__u32 sources;              /* the cell of these prefixes; 0: tunnels may come from anywhere */
	__u32 source_counts[2];     /* of IPv4, of IPv6 */
	struct prefixes prefixes;
	__u32 unused;
};

struct service {
	__u64 address[2]; /* of the cluster */
	__u32 account;
	__u16 form;
	__u16 forms; /* those of all services of the address */
	__u64 unused;
};
_Static_assert(sizeof(struct service) == 32, "src/engine/decap/table.rs");

#define SERVICES (CELL / sizeof(struct service))

struct prefix {
	__u64 address[2];
	__u64 mask[2];
};

/* limits::TUNNEL_SOURCES: of each family; those of IPv6 are behind those of IPv4. */
#define SOURCES (CELL / sizeof(struct prefix) / 2)

/* A header that was put in front of a packet, as far as it is read. */
struct outer {
	__u64 source[2];
	__u64 own[2];
	__u32 at;    /* of what is behind it, in the frame */
	__u32 len;   /* of that */
	__u32 room;  /* what the inner packet may have */
	__u16 form;
	__u8 is_v6;
	__u8 protocol;
	__u8 wrong; /* a verdict */
	__u8 inner_is_v6;
	__u8 unused[6];
};

INLINE struct service *service_at(void *map, const struct head *head, __u16 id)
{
	struct service *services = cell(map, head->services + id / SERVICES);
	if (!services)
		return 0;
	/* Not before it is known that there are any: the verifier allows no arithmetic then. */
	__u32 at = id % SERVICES;
	asm volatile("" : "+r"(at));
	return &services[at];
}

/* Whether a tunnel may come from there. */
COLD int may_come_from(void *map, const struct head *head, const struct outer *outer)
{
	if (!head->sources)
		return 1;
	struct prefix *prefixes = cell(map, head->sources);
	if (!prefixes)
		return 0;
	/* By a number that clang does not take apart: which of two places is read must not follow from a jump (sanitize_ptr_alu). */
	__u32 is_v6 = outer->is_v6 & 1;
	asm volatile("" : "+r"(is_v6));
	is_v6 &= 1;
	__u32 first = is_v6 * SOURCES, count = head->source_counts[is_v6];
	for (__u32 i = 0; i < SOURCES; i++) {
		if (i >= count)
			break;
		const struct prefix *prefix = &prefixes[(first + i) & (2 * SOURCES - 1)];
		if ((outer->source[0] & prefix->mask[0]) == prefix->address[0] &&
		    (outer->source[1] & prefix->mask[1]) == prefix->address[1])
			return 1;
	}
	return 0;
}

/* RFC 1071. The header is in memory as it is in the packet. */
INLINE int is_summed(const struct iphdr *ip)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* What stands behind the outer IP header. 0, or the kernel shall see to it. */
INLINE int read_form(struct xdp_md *ctx, void *map, const struct head *head, struct outer *outer)
{
	outer->room = outer->len;
	switch (outer->protocol) {
	case IPV4_IN:
	case IPV6_IN:
		outer->form = IPIP;
		outer->inner_is_v6 = outer->protocol == IPV6_IN;
		return 0;
	case GRE_IN: {
		/* No flags (no checksum, no key, no sequence), version 0. */
		__be16 gre[2];
		if (outer->len < sizeof(gre) || bpf_xdp_load_bytes(ctx, outer->at, gre, sizeof(gre)) || gre[0])
			return -1;
		if (gre[1] != BE16(ETH_P_IP) && gre[1] != BE16(ETH_P_IPV6))
			return -1;
		outer->form = GRE;
		outer->inner_is_v6 = gre[1] == BE16(ETH_P_IPV6);
		outer->at += sizeof(gre);
		outer->room -= sizeof(gre);
		return 0;
	}
	case UDP: {
		/* With the first word of what is behind it. */
		__be16 udp[6];
		if (outer->len < sizeof(udp) || bpf_xdp_load_bytes(ctx, outer->at, udp, sizeof(udp)) ||
		    !find(map, &head->ends, outer->own, port_key(outer->is_v6, UDP, udp[1])))
			return -1;
		/* The first two bits are the variant; IP is the second one, whose first four bits are the version. */
		__u8 version = *(__u8 *)&udp[4] >> 4;
		if (version >> 2 != 1)
			return -1;
		__u32 len = BE16(udp[2]);
		if (len > outer->len || len < 8 || (version != 4 && version != 6))
			outer->wrong = MALFORMED;
		outer->form = GUE;
		outer->inner_is_v6 = version == 6;
		outer->at += 8;
		outer->room = outer->wrong ? outer->len - 8 : len - 8;
		return 0;
	}
	}
	return -1;
}

/*
 * The packet in a tunnel: whether it is one of ours, and whether it is whole. A packet that is too short to hold a destination
 * address has none, and is the kernel's.
 */
ONCE int judge_inner(struct xdp_md *ctx, const struct outer *outer)
{
	if (!outer)
		return PASSED;
	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&table, &zero);
	struct head *head = map ? cell(map, 0) : 0;
	if (!head)
		return PASSED;
	struct flow flow = { .is_v6 = outer->inner_is_v6 };
	struct packet packet = {};
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip = {};
	if (flow.is_v6) {
		if (outer->room < sizeof(ip.v6) || bpf_xdp_load_bytes(ctx, outer->at, &ip.v6, sizeof(ip.v6)))
			return PASSED;
		__builtin_memcpy(flow.cluster, &ip.v6.daddr, sizeof(flow.cluster));
	} else {
		if (outer->room < sizeof(ip.v4) || bpf_xdp_load_bytes(ctx, outer->at, &ip.v4, sizeof(ip.v4)))
			return PASSED;
		flow.cluster[0] = ip.v4.daddr;
	}
	struct entry *address = find_address(map, &head->directory, &head->prefixes, &flow);
	if (!address)
		return PASSED;
	struct service *service = service_at(map, head, address->services.whole);
	if (!service || !(service->forms & outer->form))
		return PASSED;
	if (!may_come_from(map, head, outer))
		return UNTRUSTED;
	if (outer->wrong)
		return outer->wrong;
	int wrong = flow.is_v6 ? read_v6(&ip.v6, outer->at, outer->room, 0, &packet) :
				 read_v4(&ip.v4, outer->at, outer->room, 0, &packet);
	if (!wrong)
		wrong = read_flow(ctx, &packet, &flow);
	if (wrong)
		return wrong;
	__u16 id = choose(map, &head->directory, address, &flow);
	if (id != NO_SERVICE_ID) {
		service = service_at(map, head, id);
		if (!service)
			return PASSED;
	}
	count(ctx, service->account, &flow);
	return FORWARDED;
}

/* Takes away what is in front of the inner packet, but for the Ethernet header and its tags. */
INLINE int unwrap(struct xdp_md *ctx, __u32 at, const struct outer *outer)
{
	struct front {
		struct ethhdr eth;
		struct vlan_tag tags[MAX_VLAN_TAGS];
	} __attribute__((packed)) front;
	__be16 proto = outer->inner_is_v6 ? BE16(ETH_P_IPV6) : BE16(ETH_P_IP);
	/* Behind it is an IP header at least. */
	if (bpf_xdp_load_bytes(ctx, 0, &front, sizeof(front)) || bpf_xdp_adjust_head(ctx, outer->at - at))
		return -1;
	switch (at) {
	case sizeof(front.eth):
		front.eth.h_proto = proto;
		return bpf_xdp_store_bytes(ctx, 0, &front, sizeof(front.eth));
	case sizeof(front.eth) + sizeof(front.tags[0]):
		front.tags[0].proto = proto;
		return bpf_xdp_store_bytes(ctx, 0, &front, sizeof(front.eth) + sizeof(front.tags[0]));
	}
	front.tags[1].proto = proto;
	return bpf_xdp_store_bytes(ctx, 0, &front, sizeof(front));
}

/* RFC 1624, equation 3, of words that are in memory as they are in the packet. */
INLINE __u16 mended(__u16 check, __u32 *from, __u32 *to, __u32 len)
{
	__u32 sum = bpf_csum_diff(from, len, to, len, (__u16)~check);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The checksum behind the IP header, if there is one that counts the addresses. */
INLINE int mend_upper(struct xdp_md *ctx, const struct packet *packet, const struct flow *flow, __u32 *own)
{
	__u32 offset = packet->protocol == TCP ? 16 : packet->protocol == UDP ? 6 : 2;
	if (packet->fragment == LATER ||
	    (packet->protocol != TCP && packet->protocol != UDP && !(flow->is_v6 && packet->protocol == ICMP_V6)) ||
	    packet->len < offset + 2)
		return 0;
	__u16 check;
	if (bpf_xdp_load_bytes(ctx, packet->at + offset, &check, sizeof(check)))
		return -1;
	/* RFC 768: there is none. */
	if (packet->protocol == UDP && !check)
		return 0;
	check = mended(check, own, (__u32 *)flow->cluster, flow->is_v6 ? 16 : 4);
	if (packet->protocol == UDP && !check)
		check = 0xffff;
	return bpf_xdp_store_bytes(ctx, packet->at + offset, &check, sizeof(check));
}

/*
 * L3DSR: sets the destination back to the cluster address and clears DSCP, if the service takes the packet. What it does not
 * take, ssh with that DSCP for one, is to the server itself.
 */
ONCE int restore(struct xdp_md *ctx, __u32 at, int is_v6)
{
	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&table, &zero);
	struct head *head = map ? cell(map, 0) : 0;
	if (!head)
		return PASSED;
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
		__u32 words[10];
	} ip = {};
	struct flow flow = {};
	struct packet packet = {}, carried;
	__u32 room = (__u32)bpf_xdp_get_buff_len(ctx) - at;
	__u32 own[4] = {};
	int wrong, dscp;
	flow.is_v6 = is_v6;
	if (is_v6) {
		if (bpf_xdp_load_bytes(ctx, at, &ip.v6, sizeof(ip.v6)))
			return PASSED;
		__builtin_memcpy(own, &ip.v6.daddr, 16);
		dscp = (BE32(ip.words[0]) >> 22) & 63;
		wrong = read_v6(&ip.v6, at, room, 0, &packet);
	} else {
		if (bpf_xdp_load_bytes(ctx, at, &ip.v4, sizeof(ip.v4)))
			return PASSED;
		own[0] = ip.v4.daddr;
		dscp = ip.v4.tos >> 2;
		wrong = read_v4(&ip.v4, at, room, 0, &packet);
	}
	if (wrong)
		return PASSED;
	__builtin_memcpy(flow.cluster, own, sizeof(own));
	struct entry *end = find(map, &head->ends, flow.cluster, port_key(flow.is_v6, BY_DSCP, BE16(dscp)));
	if (!end)
		return PASSED;
	struct service *service = service_at(map, head, end->services.service);
	if (!service)
		return PASSED;
	flow.cluster[0] = service->address[0];
	flow.cluster[1] = service->address[1];
	struct entry *address = find(map, &head->directory, flow.cluster, port_key(flow.is_v6, 0, 0));
	if (!address || (flow.is_v6 && walk(ctx, &packet)))
		return PASSED;
	/* Of an ICMP error, `packet` becomes what it quotes. */
	carried = packet;
	if (read_flow(ctx, &packet, &flow))
		return PASSED;
	__u16 id = choose(map, &head->directory, address, &flow);
	if (id == NO_SERVICE_ID)
		return PASSED;
	service = service_at(map, head, id);
	if (!service || service->form != L3DSR)
		return PASSED;
	count(ctx, service->account, &flow);
	if (flow.is_v6) {
		ip.words[0] &= ~BE32(63 << 22);
		__builtin_memcpy(&ip.v6.daddr, flow.cluster, sizeof(flow.cluster));
		wrong = bpf_xdp_store_bytes(ctx, at, &ip.v6, sizeof(ip.v6));
	} else {
		__u32 first = ip.words[0];
		ip.v4.tos &= 3;
		ip.v4.daddr = flow.cluster[0];
		ip.v4.check = mended(ip.v4.check, &first, &ip.words[0], 4);
		ip.v4.check = mended(ip.v4.check, own, &ip.v4.daddr, 4);
		wrong = bpf_xdp_store_bytes(ctx, at, &ip.v4, sizeof(ip.v4));
	}
	return wrong || mend_upper(ctx, &carried, &flow, own) ? MALFORMED : FORWARDED;
}

/*
 * A packet that came as it is: OTHER_SERVER, if it is a segment of a TCP connection that this server does not have, but for one with a
 * TTL of 1: nobody else has that, and this server's kernel answers. A SYN is a beginning, and has no connection yet.
 */
ONCE int judge_stray(struct xdp_md *ctx, __u32 at, int is_v6)
{
	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&table, &zero);
	struct head *head = map ? cell(map, 0) : 0;
	if (!head)
		return PASSED;
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip = {};
	struct flow flow = {};
	struct packet packet = {};
	__u32 room = (__u32)bpf_xdp_get_buff_len(ctx) - at;
	flow.is_v6 = is_v6;
	if (is_v6) {
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
	struct service *service = service_at(map, head, address->services.whole);
	if (!service || !(service->forms & SECOND_CHANCE))
		return PASSED;
	if ((is_v6 ? read_v6(&ip.v6, at, room, 0, &packet) : read_v4(&ip.v4, at, room, 0, &packet)) || packet.ttl <= 1)
		return PASSED;
	if (read_flow(ctx, &packet, &flow) || flow.upper != PORTS || flow.transport != TCP || flow.is_quoted || flow.begins)
		return PASSED;
	__u16 id = choose(map, &head->directory, address, &flow);
	if (id == NO_SERVICE_ID)
		return PASSED;
	service = service_at(map, head, id);
	if (!service || service->form != SECOND_CHANCE)
		return PASSED;
	return find_socket(ctx, &packet, &flow, 1) == NO_SOCKET ? OTHER_SERVER : PASSED;
}

/* To where it came from. */
INLINE int send_back(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	__u8 mac[ETH_ALEN];
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	return XDP_TX;
}

/* Whether the packet is marked at all: few are. */
INLINE int has_dscp(struct xdp_md *ctx, __u32 at, int is_v6)
{
	__u8 first[2];
	return !bpf_xdp_load_bytes(ctx, at, first, sizeof(first)) && (is_v6 ? first[0] & 15 || first[1] & 0xc0 : first[1] & 0xfc);
}

/* The outer packet: FORWARDED, if it is a tunnel's to this server. */
ONCE int judge_outer(struct xdp_md *ctx, __u32 at, struct outer *outer)
{
	if (!outer)
		return PASSED;
	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&table, &zero);
	struct head *head = map ? cell(map, 0) : 0;
	if (!head)
		return PASSED;

	struct packet packet = {};
	__u32 room = (__u32)bpf_xdp_get_buff_len(ctx) - at;
	int wrong, is_summed_right = 1;
	if (outer->is_v6) {
		struct ipv6hdr ip;
		if (load(ctx, at, &ip, sizeof(ip)))
			return PASSED;
		wrong = read_v6(&ip, at, room, 0, &packet);
	} else {
		struct iphdr ip;
		if (load(ctx, at, &ip, sizeof(ip)))
			return PASSED;
		wrong = read_v4(&ip, at, room, 0, &packet);
		/* Nobody looks at it any more when it is taken off. Options are not counted, and seldom there. */
		is_summed_right = ip.ihl != 5 || is_summed(&ip);
	}
	__builtin_memcpy(outer->own, packet.destination, sizeof(outer->own));
	if (wrong || !find(map, &head->ends, outer->own, port_key(outer->is_v6, 0, 0)))
		return PASSED;
	if (outer->is_v6 && packet.protocol == DESTINATION_OPTIONS) {
		/* RFC 2473, 4.1.1: the limit of encapsulations, which Linux adds by default. */
		__u8 header[2];
		if (packet.len < 8 || bpf_xdp_load_bytes(ctx, packet.at, header, sizeof(header)))
			return PASSED;
		__u32 len = 8 + 8 * header[1];
		if (len > packet.len)
			return PASSED;
		packet.protocol = header[0];
		packet.at += len;
		packet.len -= len;
	}
	if (packet.fragment != WHOLE)
		return PASSED;
	__builtin_memcpy(outer->source, packet.source, sizeof(outer->source));
	outer->at = packet.at;
	outer->len = packet.len;
	outer->protocol = packet.protocol;
	if (read_form(ctx, map, head, outer))
		return PASSED;
	if (!is_summed_right)
		outer->wrong = MALFORMED;
	else if (!packet.ttl)
		outer->wrong = TTL;
	return FORWARDED;
}

SEC("xdp.frags")
int decap(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	__u32 verdict = PASSED, at = 0;
	__be16 proto;
	struct outer outer = {};
	if ((void *)(eth + 1) <= end && is_own(eth->h_dest)) {
		at = find_ip(eth, end, &proto);
		outer.is_v6 = proto == BE16(ETH_P_IPV6);
		if (outer.is_v6 || proto == BE16(ETH_P_IP)) {
			/*
			 * Each looks the table up, and decides by that alone. The verifier looks at each once: together they would be
			 * more than it takes.
			 */
			if (has_dscp(ctx, at, outer.is_v6))
				verdict = restore(ctx, at, outer.is_v6);
			if (verdict == PASSED) {
				verdict = judge_outer(ctx, at, &outer);
				if (verdict == FORWARDED)
					verdict = judge_inner(ctx, &outer);
			}
			if (verdict == PASSED)
				verdict = judge_stray(ctx, at, outer.is_v6);
		}
	}
	if (verdict == FORWARDED && outer.form && unwrap(ctx, at, &outer))
		verdict = MALFORMED;
	count_verdict(verdict);
	if (verdict == OTHER_SERVER)
		return send_back(ctx);
	return verdict == PASSED || verdict == FORWARDED ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
