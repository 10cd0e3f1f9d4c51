/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a frame's bytes to the flow it belongs to: the twin of src/path/classify.rs and src/wire.
 *
 * Behind the Ethernet header, what is not where it nearly always is is read by bpf_xdp_load_bytes: pointers into the packet
 * with computed offsets need CAP_PERFMON (kernel/bpf/verifier.c, sanitize_ptr_alu), and of a jumbo frame only the beginning
 * has an address.
 */
#ifndef ONEIP_PARSE_H
#define ONEIP_PARSE_H

#include "oneip.h"
#include "verdict.h"

/* Bounds and numbers of src/wire; <linux/in.h> and <linux/icmp.h> include what this target does not have. */
#define MAX_EXTENSION_HEADERS 8
enum { ICMP_V4 = 1, TCP = 6, UDP = 17, ICMP_V6 = 58, SCTP = 132, UNKNOWN = 256 };

enum fragment { WHOLE, FIRST, LATER };

/* An IP packet, or as much as an ICMP error quotes of one. */
struct packet {
	__u64 source[2];
	__u64 destination[2];
	__u32 at;  /* of the payload, in the frame */
	__u32 len; /* of the payload */
	__u16 protocol;
	__u8 fragment;
	__u8 ttl;
};

/* path::classify::Upper */
enum upper { PORTS, FIRST_FRAGMENT, LATER_FRAGMENT, ADDRESS, OTHER, FOREIGN };

struct flow {
	__u64 client[2];
	__u64 cluster[2];
	__u8 upper;
	__u8 transport; /* of the first three */
	__u8 begins;    /* a SYN without ACK */
	__u8 is_v6;
	__be16 source; /* ports of the first two, as the client sends them */
	__be16 destination;
	__u8 is_quoted; /* what an ICMP error is about */
	__u8 unused[7];
};

/* Where the IP header begins behind at most MAX_VLAN_TAGS tags, as wire::ethernet. The Ethernet header is there. */
INLINE __u32 find_ip(void *data, void *end, __be16 *proto)
{
	struct ethhdr *eth = data;
	__u32 at = sizeof(*eth);
	*proto = eth->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		struct vlan_tag *tag = data + sizeof(*eth) + i * sizeof(*tag);
		if ((*proto != BE16(ETH_P_8021Q) && *proto != BE16(ETH_P_8021AD)) || (void *)(tag + 1) > end)
			break;
		*proto = tag->proto;
		at += sizeof(*tag);
	}
	return at;
}

/* 0, or the frame is too short. At these places stand untagged packets' headers, without options. */
INLINE long load(struct xdp_md *ctx, __u32 at, void *to, const __u32 len)
{
	void *end = (void *)(long)ctx->data_end, *data = (void *)(long)ctx->data;
	/* Kept apart, or clang computes one place for all of them. */
#define AT(place)                                                  \
	if (at == (place)) {                                       \
		asm volatile("" : "+r"(data));                     \
		if (data + (place) + len <= end) {                 \
			__builtin_memcpy(to, data + (place), len); \
			return 0;                                  \
		}                                                  \
	}
	AT(ETH_HLEN)
	AT(ETH_HLEN + sizeof(struct iphdr))
	AT(ETH_HLEN + sizeof(struct ipv6hdr))
#undef AT
	return bpf_xdp_load_bytes(ctx, at, to, len);
}

INLINE int is_transport(__u16 protocol)
{
	return protocol == TCP || protocol == UDP || protocol == SCTP;
}

/* wire::ipv4. 0, or a verdict */
INLINE int read_v4(const struct iphdr *ip, __u32 at, __u32 room, int cut, struct packet *packet)
{
	__u32 header = ip->ihl * 4, total = BE16(ip->tot_len), part = BE16(ip->frag_off);
	if (ip->version != 4 || header < sizeof(*ip) || header > room || total < header)
		return MALFORMED;
	if (total > room) {
		if (!cut)
			return MALFORMED;
		total = room;
	}
	packet->source[0] = ip->saddr;
	packet->source[1] = 0;
	packet->destination[0] = ip->daddr;
	packet->destination[1] = 0;
	packet->at = at + header;
	packet->len = total - header;
	packet->protocol = ip->protocol;
	packet->ttl = ip->ttl;
	packet->fragment = part & 0x1fff ? LATER : part & 0x2000 ? FIRST : WHOLE;
	return 0;
}

/* wire::ipv6, before the extension headers. 0, or a verdict */
INLINE int read_v6(const struct ipv6hdr *ip, __u32 at, __u32 room, int cut, struct packet *packet)
{
	__u32 len = BE16(ip->payload_len);
	room -= sizeof(*ip);
	if (ip->version != 6 || (len > room && !cut))
		return MALFORMED;
	__builtin_memcpy(packet->source, &ip->saddr, sizeof(packet->source));
	__builtin_memcpy(packet->destination, &ip->daddr, sizeof(packet->destination));
	packet->at = at + sizeof(*ip);
	packet->len = len > room ? room : len;
	packet->protocol = ip->nexthdr;
	packet->ttl = ip->hop_limit;
	packet->fragment = WHOLE;
	return 0;
}

INLINE int is_extension(__u16 protocol)
{
	switch (protocol) {
	case 0:   /* hop by hop */
	case 43:  /* routing */
	case 44:  /* fragment */
	case 51:  /* authentication */
	case 60:  /* destination options */
	case 135: /* mobility */
	case 139: /* host identity */
	case 140: /* shim6 */
		return 1;
	}
	return 0;
}

/* wire::ipv6::Ipv6::upper. 0, or a verdict */
ONCE int walk(struct xdp_md *ctx, struct packet *packet)
{
	if (!packet)
		return MALFORMED;
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		__u16 protocol = packet->protocol;
		if (!is_extension(protocol))
			return 0;
		__u8 header[4];
		if (packet->len < 8 || bpf_xdp_load_bytes(ctx, packet->at, header, sizeof(header)))
			return MALFORMED;
		__u32 len = protocol == 44 ? 8 : protocol == 51 ? 8 + 4 * header[1] : 8 + 8 * header[1];
		if (len > packet->len)
			return MALFORMED;
		packet->protocol = header[0];
		packet->at += len;
		packet->len -= len;
		if (protocol == 44) {
			if (header[2] || header[3] & 0xf8) {
				packet->fragment = LATER;
				packet->len = 0;
				if (is_extension(header[0]))
					packet->protocol = UNKNOWN;
				return 0;
			}
			if (header[3] & 1)
				packet->fragment = FIRST;
		}
	}
	if (is_extension(packet->protocol)) {
		packet->protocol = UNKNOWN;
		packet->len = 0;
	}
	return 0;
}

/* wire::transport, and path::classify::upper. 0, or a verdict */
INLINE int read_upper(struct xdp_md *ctx, const struct packet *packet, struct flow *flow)
{
	if (!is_transport(packet->protocol)) {
		flow->upper = packet->fragment == LATER && packet->protocol == UNKNOWN ? ADDRESS : OTHER;
		return 0;
	}
	flow->transport = packet->protocol;
	flow->upper = LATER_FRAGMENT;
	if (packet->fragment == LATER)
		return 0;
	if (packet->fragment == FIRST) {
		__be16 ports[2];
		if (packet->len < sizeof(ports))
			return 0;
		if (bpf_xdp_load_bytes(ctx, packet->at, ports, sizeof(ports)))
			return MALFORMED;
		flow->upper = FIRST_FRAGMENT;
		flow->source = ports[0];
		flow->destination = ports[1];
		return 0;
	}
	union {
		__be16 words[8];
		__u8 bytes[16];
	} header;
	if (packet->protocol == TCP) {
		if (packet->len < 20 || load(ctx, packet->at, &header, 16))
			return MALFORMED;
		__u32 offset = (header.bytes[12] >> 4) * 4;
		if (offset < 20 || offset > packet->len)
			return MALFORMED;
		flow->begins = (header.bytes[13] & 0x12) == 0x02;
	} else {
		if (packet->len < 8 || load(ctx, packet->at, &header, 8))
			return MALFORMED;
		if (packet->protocol == UDP) {
			__u32 len = BE16(header.words[2]);
			if (len < 8 || len > packet->len)
				return MALFORMED;
		} else if (packet->len < 12) {
			return MALFORMED;
		}
	}
	flow->upper = PORTS;
	flow->source = header.words[0];
	flow->destination = header.words[1];
	return 0;
}

/*
 * path::classify::quoted_v4 and quoted_v6: the packet that an ICMP error is about went from the cluster address to the client.
 * `packet` is the quoted one then. 0, or a verdict
 */
COLD int read_quoted(struct xdp_md *ctx, struct packet *packet, struct flow *flow)
{
	__u32 at = packet->at + 8, room = packet->len - 8;
	__u16 icmp;
	int wrong;
	flow->is_quoted = 1;
	if (flow->is_v6) {
		struct ipv6hdr ip;
		if (room < sizeof(ip) || bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)))
			return MALFORMED;
		wrong = read_v6(&ip, at, room, 1, packet);
		icmp = ICMP_V6;
	} else {
		struct iphdr ip;
		if (room < sizeof(ip) || bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)))
			return MALFORMED;
		wrong = read_v4(&ip, at, room, 1, packet);
		icmp = ICMP_V4;
	}
	if (wrong)
		return wrong;
	if (packet->source[0] != flow->cluster[0] || packet->source[1] != flow->cluster[1]) {
		flow->upper = FOREIGN;
		return 0;
	}
	if (flow->is_v6) {
		wrong = walk(ctx, packet);
		if (wrong)
			return wrong;
	}
	flow->client[0] = packet->destination[0];
	flow->client[1] = packet->destination[1];
	if (packet->protocol == icmp || packet->protocol == UNKNOWN) {
		flow->upper = ADDRESS;
		return 0;
	}
	if (!is_transport(packet->protocol)) {
		flow->upper = OTHER;
		return 0;
	}
	flow->transport = packet->protocol;
	flow->upper = LATER_FRAGMENT;
	if (packet->fragment == LATER)
		return 0;
	__be16 ports[2];
	if (packet->len < sizeof(ports))
		return packet->fragment == WHOLE ? MALFORMED : 0;
	if (bpf_xdp_load_bytes(ctx, packet->at, ports, sizeof(ports)))
		return MALFORMED;
	flow->upper = PORTS;
	flow->source = ports[1];
	flow->destination = ports[0];
	return 0;
}

/* wire::icmp, and path::classify::flow_v4 and flow_v6 behind the header. 0, or a verdict */
INLINE int read_flow(struct xdp_md *ctx, struct packet *packet, struct flow *flow)
{
	if (!packet->ttl)
		return TTL;
	if (flow->is_v6) {
		int wrong = walk(ctx, packet);
		if (wrong)
			return wrong;
	}
	flow->client[0] = packet->source[0];
	flow->client[1] = packet->source[1];
	if (packet->protocol != (flow->is_v6 ? ICMP_V6 : ICMP_V4))
		return read_upper(ctx, packet, flow);
	if (packet->fragment != WHOLE) {
		flow->upper = ADDRESS;
		return 0;
	}
	__u8 type;
	if (packet->len < 8 || bpf_xdp_load_bytes(ctx, packet->at, &type, sizeof(type)))
		return MALFORMED;
	int is_echo = type == (flow->is_v6 ? 128 : 8);
	int is_error = flow->is_v6 ? type < 128 : type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
	if (is_error)
		return read_quoted(ctx, packet, flow);
	flow->upper = is_echo ? ADDRESS : OTHER;
	return 0;
}

#endif
