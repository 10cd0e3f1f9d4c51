/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets that do not go to their servers as they are: the twin of src/path/encapsulate.rs, src/wire/tunnel.rs, readdress.rs,
 * too_big.rs and ethernet.rs. Included by dispatch.h.
 *
 * A program cannot make two frames of one: what a worker sends in fragments is dropped here, and answered.
 */
#ifndef ONEIP_ENCAP_H
#define ONEIP_ENCAP_H

#include "arena.h"
#include "counters.h"
#include "hash.h"

/* limits::TOO_BIG_ANSWERS and TOO_BIG_WINDOW */
#define TOO_BIG_ANSWERS 64
#define TOO_BIG_WINDOW 26

/* wire::too_big */
#define IPV6_MIN_MTU 1280
#define QUOTED_V4 (576 - 28)
#define QUOTED_V6 (1280 - 48)

/* What is summed at once, and how often: frames of 16 KiB. */
#define PART 512
#define PARTS 32

/* The packet of a frame, and what is put in front of it. */
struct encap {
	__u32 at;  /* of the packet, in the frame */
	__u32 len; /* by its own length field */
	__u32 sum; /* of what was summed last */
	__u8 class;
	__u8 dont_fragment;
	__u8 is_v4;
	__u8 unused;
	union {
		__u8 bytes[WAY_HEADER];
		__be16 halves[WAY_HEADER / 2];
		struct iphdr v4;
		struct ipv6hdr v6;
	} header;
	__u8 link[24];
	struct packet packet;
	__u8 part[PART];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct encap);
} encap SEC(".maps");

/* Identifications of packets that may be fragmented, of all cores. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} identifications SEC(".maps");

INLINE struct encap *encap_of_core(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&encap, &zero);
}

INLINE struct way *way_of(const struct head *head, const struct choice *choice)
{
	return head->ways ? AT_INDEX(struct way, head->ways, choice->destination) : 0;
}

/* wire::checksum::fold, of sums of 16-bit numbers. */
INLINE __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The sum of bytes in memory, a multiple of 4: by the helper, for loops whose pointers move want CAP_PERFMON. */
INLINE __u32 sum_of(void *bytes, const __u32 len)
{
	/* In the host's order. */
	long sum = bpf_csum_diff(0, 0, bytes, len, 0);
	return BE16((__u16)~fold((__u32)sum));
}

/* wire::checksum::mended */
INLINE __be16 mended(__be16 checksum, __u32 old, __u32 new)
{
	__u16 was = BE16(checksum);
	return BE16(fold((__u16)~was + (__u32)fold(old) + (__u16)~fold(new)));
}

/* Adds up `len` bytes of the frame from `at` on, into `sum`. 0, or the frame is shorter. */
ONCE int sum_frame(struct xdp_md *ctx, __u32 at, __u32 len)
{
	struct encap *encap = encap_of_core();
	if (!encap)
		return -1;
	long sum = 0;
	for (int i = 0; i < PARTS; i++) {
		if (len < PART)
			break;
		if (bpf_xdp_load_bytes(ctx, at, encap->part, PART))
			return -1;
		sum = bpf_csum_diff(0, 0, (__be32 *)encap->part, PART, sum);
		at += PART;
		len -= PART;
	}
	if (len >= PART)
		return -1;
	if (len) {
		/* From 1 to PART, as the verifier of Linux 6.1 sees it. */
		__u32 less = len - 1;
		asm volatile("" : "+r"(less));
		less &= PART - 1;
		__builtin_memset(encap->part, 0, PART);
		if (bpf_xdp_load_bytes(ctx, at, encap->part, less + 1))
			return -1;
		sum = bpf_csum_diff(0, 0, (__be32 *)encap->part, PART, sum);
	}
	/* In the host's order until here. */
	encap->sum = BE16((__u16)~fold((__u32)sum));
	return 0;
}

/* path::encapsulate::fate: FORWARDED, or too large. Nothing is written. */
ONCE int fate_of(struct xdp_md *ctx, const struct head *head, const struct choice *choice)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct encap *encap = encap_of_core();
	if (!head || !choice || !encap || (void *)(eth + 1) > end)
		return TX_FULL;
	struct way *way = way_of(head, choice);
	__be16 proto;
	encap->at = find_ip(eth, end, &proto);
	if (!way || bpf_xdp_load_bytes(ctx, encap->at, &encap->header, sizeof(struct iphdr)))
		return TX_FULL;
	const struct iphdr *v4 = &encap->header.v4;
	encap->is_v4 = v4->version == 4;
	if (encap->is_v4) {
		encap->len = BE16(v4->tot_len);
		encap->class = v4->tos;
		encap->dont_fragment = (BE16(v4->frag_off) & 0x4000) != 0;
	} else {
		encap->len = BE16(encap->header.halves[2]) + sizeof(struct ipv6hdr);
		encap->class = BE16(encap->header.halves[0]) >> 4;
		encap->dont_fragment = 1;
	}
	if (way->kind == DIRECT || way->kind == READDRESS || encap->len <= way->inner_mtu)
		return FORWARDED;
	return TOO_BIG;
}

/* path::encapsulate::port */
INLINE __u16 spread_port(struct xdp_md *ctx, const struct head *head, const struct encap *encap)
{
	struct flow flow = { .is_v6 = !encap->is_v4 };
	if (encap->is_v4)
		bpf_xdp_load_bytes(ctx, encap->at + 12, flow.client, 4);
	else
		bpf_xdp_load_bytes(ctx, encap->at + 8, flow.client, 16);
	return (__u16)siphash(head->key.words, &flow, 0) | 0xc000;
}

/* wire::tunnel::Template::write. Two functions, or clang stores by one instruction at either's place, for which the verifier wants CAP_PERFMON. */
ONCE int write_v4(struct xdp_md *ctx, const struct head *head, const struct way *way)
{
	struct encap *encap = encap_of_core();
	if (!head || !way || !encap)
		return -1;
	__u32 total = way->len + encap->len, zero = 0;
	__be16 *halves = encap->header.halves;
	__builtin_memcpy(&encap->header, way->header, WAY_HEADER);
	__u16 id = 0, flags = 0x4000;
	if (!encap->dont_fragment) {
		__u32 *next = bpf_map_lookup_elem(&identifications, &zero);
		id = next ? __sync_fetch_and_add(next, 1) : 0;
		flags = 0;
	}
	encap->header.v4.tos = encap->class;
	halves[1] = BE16(total);
	halves[2] = BE16(id);
	halves[3] = BE16(flags);
	halves[5] = BE16(fold(way->sum + encap->class + total + id + flags));
	if (way->is_udp) {
		halves[10] = BE16(spread_port(ctx, head, encap));
		halves[12] = BE16(total - sizeof(struct iphdr));
	}
	return 0;
}

ONCE int write_v6(struct xdp_md *ctx, const struct head *head, const struct way *way)
{
	struct encap *encap = encap_of_core();
	if (!head || !way || !encap)
		return -1;
	__be16 *halves = encap->header.halves;
	__builtin_memcpy(&encap->header, way->header, WAY_HEADER);
	__u32 udp = way->len + encap->len - sizeof(struct ipv6hdr);
	halves[0] = BE16(0x6000 | encap->class << 4);
	halves[2] = BE16(udp);
	if (!way->is_udp)
		return 0;
	__u16 port = spread_port(ctx, head, encap);
	halves[20] = BE16(port);
	halves[22] = BE16(udp);
	if (sum_frame(ctx, encap->at, encap->len))
		return -1;
	__u16 checksum = fold(way->sum + port + 2 * udp + encap->sum);
	halves[23] = checksum ? BE16(checksum) : 0xffff;
	return 0;
}

/*
 * wire::ethernet::Link: the header, of `len` bytes before that of a packet of `proto`, with the tags of `way`. How long it is then. Values are
 * chosen and not places: for these the verifier wants CAP_PERFMON.
 */
INLINE __u32 retag(struct encap *encap, __u32 len, __be16 proto, const struct way *way)
{
	__be16 *halves = (__be16 *)encap->link;
	int is_tagged = way->tags == TAGGED;
	__u16 priority = len > ETH_HLEN ? BE16(halves[7]) & 0xf000 : 0;
	halves[6] = is_tagged ? BE16(ETH_P_8021Q) : proto;
	halves[7] = BE16(priority | way->vlan);
	halves[8] = proto;
	return is_tagged ? ETH_HLEN + 4 : ETH_HLEN;
}

/*
 * The Ethernet header goes to the beginning of a frame that is `more` bytes longer in front, and ends behind `keep` bytes of the packet.
 * `way`: with its tags; 0: with those that it has. 0, or it has no room.
 */
ONCE int move_link(struct xdp_md *ctx, __u32 more, __u32 keep, const struct way *way)
{
	struct encap *encap = encap_of_core();
	if (!encap)
		return -1;
	__u32 link = encap->at, added = more;
	if (link < ETH_HLEN)
		return -1;
	/* One after the other, as in `encapsulate`. */
	asm volatile("" : "+r"(link));
	if (link > sizeof(encap->link))
		return -1;
	if (bpf_xdp_load_bytes(ctx, 0, encap->link, link))
		return -1;
	if (way && way->tags) {
		__u32 before = link;
		__be16 proto;
		if (bpf_xdp_load_bytes(ctx, link - 2, &proto, sizeof(proto)))
			return -1;
		link = retag(encap, link, proto, way);
		encap->at = link;
		more += link - before;
	}
	if (more && bpf_xdp_adjust_head(ctx, -(int)more))
		return -1;
	/* What is not the packet's is cut off. */
	int delta = (int)(link + added + keep) - (int)bpf_xdp_get_buff_len(ctx);
	if (delta < 0 && bpf_xdp_adjust_tail(ctx, delta))
		return -1;
	return bpf_xdp_store_bytes(ctx, 0, encap->link, link);
}

/* wire::readdress::mend_upper */
INLINE int mend_upper(struct xdp_md *ctx, const struct packet *packet, int is_v4, __u32 old, __u32 new)
{
	__u32 field;
	if (packet->fragment == LATER)
		return 0;
	if (packet->protocol == TCP)
		field = 16;
	else if (packet->protocol == UDP)
		field = 6;
	else if (packet->protocol == ICMP_V6 && !is_v4)
		field = 2;
	else
		return 0;
	__be16 checksum;
	if (packet->len < field + 2 || bpf_xdp_load_bytes(ctx, packet->at + field, &checksum, sizeof(checksum)))
		return 0;
	if (packet->protocol == UDP && !checksum)
		return 0;
	checksum = mended(checksum, old, new);
	if (packet->protocol == UDP && !checksum)
		checksum = 0xffff;
	return bpf_xdp_store_bytes(ctx, packet->at + field, &checksum, sizeof(checksum));
}

/* wire::readdress::Readdress::apply_v4 */
ONCE int readdress_v4(struct xdp_md *ctx, const struct way *way)
{
	struct encap *encap = encap_of_core();
	if (!encap || !way)
		return -1;
	__be16 *halves = encap->header.halves;
	struct iphdr *ip = &encap->header.v4;
	if (bpf_xdp_load_bytes(ctx, encap->at, ip, sizeof(*ip)) ||
	    read_v4(ip, encap->at, (__u32)bpf_xdp_get_buff_len(ctx) - encap->at, 0, &encap->packet))
		return -1;
	__u32 old = sum_of(halves + 8, 4), before = BE16(halves[0]);
	ip->tos = way->dscp << 2 | (ip->tos & 3);
	__builtin_memcpy(&ip->daddr, way->header, sizeof(ip->daddr));
	ip->check = mended(ip->check, old + before, way->sum + BE16(halves[0]));
	if (bpf_xdp_store_bytes(ctx, encap->at, ip, sizeof(*ip)))
		return -1;
	return mend_upper(ctx, &encap->packet, 1, old, way->sum);
}

/* wire::readdress::Readdress::apply_v6 */
ONCE int readdress_v6(struct xdp_md *ctx, const struct way *way)
{
	struct encap *encap = encap_of_core();
	if (!encap || !way)
		return -1;
	__be16 *halves = encap->header.halves;
	struct ipv6hdr *ip = &encap->header.v6;
	if (bpf_xdp_load_bytes(ctx, encap->at, ip, sizeof(*ip)) ||
	    read_v6(ip, encap->at, (__u32)bpf_xdp_get_buff_len(ctx) - encap->at, 0, &encap->packet))
		return -1;
	__u32 old = sum_of(halves + 12, 16);
	__u16 first = BE16(halves[0]);
	halves[0] = BE16(0x6000 | ((first >> 4 & 3) | way->dscp << 2) << 4 | (first & 0xf));
	__builtin_memcpy(&ip->daddr, way->header, sizeof(ip->daddr));
	if (bpf_xdp_store_bytes(ctx, encap->at, ip, sizeof(*ip)))
		return -1;
	if (walk(ctx, &encap->packet))
		return 0;
	return mend_upper(ctx, &encap->packet, 0, old, way->sum);
}

/* path::encapsulate::write, without the MACs: of a frame that `fate_of` has let through. 0, or it cannot be sent. */
ONCE int encapsulate(struct xdp_md *ctx, const struct head *head, const struct choice *choice)
{
	struct encap *encap = encap_of_core();
	if (!head || !choice || !encap)
		return -1;
	struct way *way = way_of(head, choice);
	if (!way)
		return -1;
	if (way->kind == READDRESS && (encap->is_v4 ? readdress_v4(ctx, way) : readdress_v6(ctx, way)))
		return -1;
	if (way->kind == DIRECT || way->kind == READDRESS)
		return way->tags ? move_link(ctx, 0, (__u32)bpf_xdp_get_buff_len(ctx) - encap->at, way) : 0;
	__u32 len = way->len;
	if (way->kind == TUNNEL_V4 ? write_v4(ctx, head, way) : write_v6(ctx, head, way))
		return -1;
	if (move_link(ctx, len, encap->len, way))
		return -1;
	__be16 proto = way->kind == TUNNEL_V4 ? BE16(ETH_P_IP) : BE16(ETH_P_IPV6);
	if (bpf_xdp_store_bytes(ctx, encap->at - 2, &proto, sizeof(proto)))
		return -1;
	/* Judged here, where the verifier sees it; one after the other, for it did not see through the two at once in Linux 6.1. */
	asm volatile("" : "+r"(len));
	if (len < sizeof(struct iphdr))
		return -1;
	asm volatile("" : "+r"(len));
	if (len > WAY_HEADER)
		return -1;
	return bpf_xdp_store_bytes(ctx, encap->at, &encap->header, len);
}

/* wire::too_big: whether the packet may be answered. */
INLINE int is_answerable(struct xdp_md *ctx, const struct choice *choice, struct encap *encap)
{
	if (choice->flow.is_quoted)
		return 0;
	if (encap->is_v4) {
		if (bpf_xdp_load_bytes(ctx, encap->at, &encap->header, sizeof(struct iphdr)))
			return 0;
		__u8 first = encap->header.bytes[12];
		return !(BE16(encap->header.v4.frag_off) & 0x1fff) && first && first != 127 && first < 224;
	}
	if (bpf_xdp_load_bytes(ctx, encap->at, &encap->header, sizeof(struct ipv6hdr)))
		return 0;
	const __u8 *source = encap->header.bytes + 8;
	__u8 any = 0;
#pragma unroll
	for (int i = 0; i < 15; i++)
		any |= source[i];
	return any && source[0] != 0xff;
}

/* wire::too_big::write_v4: the header of the answer, in front of what is quoted, which lies in the frame behind it. 0, or there is none. */
ONCE int answer_v4(struct xdp_md *ctx, __u32 mtu, __u32 quoted)
{
	struct encap *encap = encap_of_core();
	if (!encap || sum_frame(ctx, encap->at + 28, quoted))
		return -1;
	__be16 *halves = encap->header.halves;
	__be32 client = encap->header.v4.saddr, cluster = encap->header.v4.daddr;
	halves[0] = BE16(0x45c0);
	halves[1] = BE16(28 + quoted);
	halves[2] = 0;
	halves[3] = BE16(0x4000);
	halves[4] = BE16(64 << 8 | ICMP_V4);
	halves[5] = 0;
	encap->header.v4.saddr = cluster;
	encap->header.v4.daddr = client;
	halves[5] = BE16(fold(sum_of(halves, 20)));
	halves[10] = BE16(3 << 8 | 4);
	halves[11] = BE16(fold((3 << 8 | 4) + mtu + encap->sum));
	halves[12] = 0;
	halves[13] = BE16(mtu);
	return bpf_xdp_store_bytes(ctx, encap->at, &encap->header, 28);
}

/* wire::too_big::write_v6 */
ONCE int answer_v6(struct xdp_md *ctx, __u32 mtu, __u32 quoted)
{
	struct encap *encap = encap_of_core();
	if (!encap || sum_frame(ctx, encap->at + 48, quoted))
		return -1;
	__be16 *halves = encap->header.halves;
	struct in6_addr client = encap->header.v6.saddr;
	if (mtu < IPV6_MIN_MTU)
		mtu = IPV6_MIN_MTU;
	halves[0] = BE16(0x6000);
	halves[1] = 0;
	halves[2] = BE16(8 + quoted);
	halves[3] = BE16(ICMP_V6 << 8 | 64);
	encap->header.v6.saddr = encap->header.v6.daddr;
	encap->header.v6.daddr = client;
	halves[20] = BE16(2 << 8);
	halves[21] = 0;
	halves[22] = 0;
	halves[23] = BE16(mtu);
	halves[21] = BE16(fold(sum_of(halves + 4, 40) + 8 + quoted + ICMP_V6 + encap->sum));
	return bpf_xdp_store_bytes(ctx, encap->at, &encap->header, 48);
}

/* path::encapsulate::Answers: what becomes of a frame that is too large. */
ONCE int answer(struct xdp_md *ctx, const struct head *head, const struct choice *choice, struct tally *tally)
{
	struct encap *encap = encap_of_core();
	if (!head || !choice || !encap || !tally)
		return XDP_DROP;
	struct way *way = way_of(head, choice);
	__u64 window = now_ns() >> TOO_BIG_WINDOW;
	if (tally->window != window) {
		tally->window = window;
		tally->answered = 0;
	}
	if (!way || tally->answered >= TOO_BIG_ANSWERS || !is_answerable(ctx, choice, encap))
		return XDP_DROP;
	__u32 most = encap->is_v4 ? QUOTED_V4 : QUOTED_V6, quoted = encap->len < most ? encap->len : most;
	if (move_link(ctx, encap->is_v4 ? 28 : 48, quoted, 0))
		return XDP_DROP;
	if (encap->is_v4 ? answer_v4(ctx, way->inner_mtu, quoted) : answer_v6(ctx, way->inner_mtu, quoted))
		return XDP_DROP;
	tally->answered++;
	/* Back where it came from. */
	if (bpf_xdp_store_bytes(ctx, 0, encap->link + 6, 6) || bpf_xdp_store_bytes(ctx, 6, encap->link, 6))
		return XDP_DROP;
	return head->own_egress ? bpf_redirect(ctx->ingress_ifindex, 0) : XDP_TX;
}

#endif
