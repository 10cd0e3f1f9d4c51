/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Probe: has the dispatcher's own health checks leave as clients' packets do. It runs where packets leave the interface (tc egress),
 * and looks at nothing but the mark: that of a probe (src/control/health/route.rs) says which server it is for, and here is looked up
 * which header goes in front of it, or which address it goes to instead. Then the mark is taken off. A probe to a server on the link
 * has no entry, and leaves as it is.
 *
 * The twin of src/wire/tunnel.rs and readdress.rs for packets that this host makes itself, and whose checksum a device may have yet to
 * finish. They are small: routes of probes have the MTU that the tunnel leaves.
 */
#include <linux/pkt_cls.h>

#include "way.h"

/* MARKS of src/control/health/route.rs: the number of the server is below it. */
#define MARKS 0x6f6e0000
#define MARKS_MASK 0xffff0000

static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*bpf_skb_store_bytes)(void *skb, __u32 offset, const void *from, __u32 len, __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*bpf_skb_adjust_room)(void *skb, __s32 len_diff, __u32 mode, __u64 flags) = (void *)BPF_FUNC_skb_adjust_room;
static long (*bpf_l3_csum_replace)(void *skb, __u32 offset, __u64 from, __u64 to, __u64 flags) = (void *)BPF_FUNC_l3_csum_replace;
static long (*bpf_l4_csum_replace)(void *skb, __u32 offset, __u64 from, __u64 to, __u64 flags) = (void *)BPF_FUNC_l4_csum_replace;

enum { ICMP_V4 = 1, TCP = 6, ICMP_V6 = 58 };

/* Behind the Ethernet header; a tag, where there is one, is not in the packet yet. */
#define IP_AT ETH_HLEN

struct probe {
	struct way way;
	__u64 sent; /* probes that have left so */
};

/* By the number of the server, twice, and 1 for IPv6. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct probe);
} probes SEC(".maps");

/* The packet, as far as it is read. */
union inner {
	__be16 halves[20];
	__be32 words[10];
	struct iphdr v4;
	struct ipv6hdr v6;
};

INLINE __u32 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/*
 * The sum of the whole packet, as it will be when its checksum is right: everything that a checksum covers sums up to nothing then, so
 * that what remains is the header without what is in the pseudo-header.
 */
INLINE __u32 sum_of(const union inner *inner, int is_v6)
{
	if (is_v6)
		return BE16(inner->halves[0]) + BE16(inner->halves[1]) + BE16(inner->halves[3]) + 0xffff - inner->v6.nexthdr;
	if (inner->v4.protocol == ICMP_V4)
		return 0;
	__u32 pseudo = inner->v4.protocol + BE16(inner->halves[1]) - inner->v4.ihl * 4u;
#pragma unroll
	for (int i = 6; i < 10; i++)
		pseudo += BE16(inner->halves[i]);
	return 0xffff - folded(pseudo);
}

/* path::encapsulate::port, but for the hash, whose key is not here: the same for all probes from one address. */
INLINE __u16 spread_port(const union inner *inner, int is_v6)
{
	__u32 sum = is_v6 ? bpf_csum_diff(0, 0, (__be32 *)&inner->words[2], 16, 0) : bpf_csum_diff(0, 0, (__be32 *)&inner->words[3], 4, 0);
	return folded(sum) | 0xc000;
}

/* wire::tunnel::Template::write */
ONCE int wrap(struct __sk_buff *skb, struct way *way)
{
	union inner inner = {};
	union {
		__be16 halves[WAY_HEADER / 2];
		struct iphdr v4;
	} header;
	if (!way)
		return -1;
	int is_v6 = skb->protocol == BE16(ETH_P_IPV6), is_outer_v6 = way->kind == TUNNEL_V6;
	__u32 len = way->len, size = skb->len - IP_AT;
	if (bpf_skb_load_bytes(skb, IP_AT, &inner, is_v6 ? sizeof(inner.v6) : sizeof(inner.v4)))
		return -1;
	__u8 class = is_v6 ? BE16(inner.halves[0]) >> 4 : inner.v4.tos;
	__builtin_memcpy(&header, way->header, WAY_HEADER);
	if (is_outer_v6) {
		__u32 payload = len + size - sizeof(struct ipv6hdr);
		header.halves[0] = BE16(0x6000 | class << 4);
		header.halves[2] = BE16(payload);
		if (way->is_udp) {
			__u16 port = spread_port(&inner, is_v6);
			__u16 checksum = ~folded(folded(way->sum) + port + 2 * payload + folded(sum_of(&inner, is_v6)));
			header.halves[20] = BE16(port);
			header.halves[22] = BE16(payload);
			/* RFC 6935, for what the kernel cuts into segments afterwards. */
			header.halves[23] = skb->gso_segs > 1 ? 0 : checksum ? BE16(checksum) : 0xffff;
		}
	} else {
		__u32 total = len + size;
		__u16 may_be_fragmented = !is_v6 && !(BE16(inner.v4.frag_off) & 0x4000);
		__u16 id = may_be_fragmented ? bpf_get_prandom_u32() : 0, flags = may_be_fragmented ? 0 : 0x4000;
		header.v4.tos = class;
		header.halves[1] = BE16(total);
		header.halves[2] = BE16(id);
		header.halves[3] = BE16(flags);
		header.halves[5] = BE16((__u16)~folded(way->sum + class + total + id + flags));
		if (way->is_udp) {
			header.halves[10] = BE16(spread_port(&inner, is_v6));
			header.halves[12] = BE16(total - sizeof(struct iphdr));
		}
	}
	__u64 flags = is_outer_v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	if (way->is_udp)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	else if (len != (is_outer_v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)))
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	__be16 proto = is_outer_v6 ? BE16(ETH_P_IPV6) : BE16(ETH_P_IP);
	if (bpf_skb_adjust_room(skb, len, BPF_ADJ_ROOM_MAC, flags) || bpf_skb_store_bytes(skb, IP_AT - 2, &proto, sizeof(proto), 0))
		return -1;
	/* Judged here, where the verifier sees it; one after the other, for it did not see through the two at once in Linux 6.1. */
	asm volatile("" : "+r"(len));
	if (len < sizeof(struct iphdr))
		return -1;
	asm volatile("" : "+r"(len));
	if (len > WAY_HEADER)
		return -1;
	return bpf_skb_store_bytes(skb, IP_AT, &header, len, BPF_F_INVALIDATE_HASH);
}

/* wire::readdress::Readdress::apply_v4 */
ONCE int readdress_v4(struct __sk_buff *skb, struct way *way)
{
	struct iphdr ip;
	__be32 to;
	if (!way || bpf_skb_load_bytes(skb, IP_AT, &ip, sizeof(ip)))
		return -1;
	__builtin_memcpy(&to, way->header, sizeof(to));
	__u8 first[2] = { 0x40 | ip.ihl, ip.tos }, now[2] = { first[0], way->dscp << 2 | (ip.tos & 3) };
	__u32 upper = IP_AT + ip.ihl * 4u + 16;
	if (ip.protocol == TCP && bpf_l4_csum_replace(skb, upper, ip.daddr, to, BPF_F_PSEUDO_HDR | sizeof(to)))
		return -1;
	if (bpf_l3_csum_replace(skb, IP_AT + 10, ip.daddr, to, sizeof(to)) ||
	    bpf_l3_csum_replace(skb, IP_AT + 10, *(__be16 *)first, *(__be16 *)now, sizeof(now)))
		return -1;
	return bpf_skb_store_bytes(skb, IP_AT, now, sizeof(now), 0) || bpf_skb_store_bytes(skb, IP_AT + 16, &to, sizeof(to), BPF_F_INVALIDATE_HASH);
}

/* wire::readdress::Readdress::apply_v6 */
ONCE int readdress_v6(struct __sk_buff *skb, struct way *way)
{
	struct ipv6hdr ip;
	__be32 to[4];
	if (!way || bpf_skb_load_bytes(skb, IP_AT, &ip, sizeof(ip)))
		return -1;
	__builtin_memcpy(to, way->header, sizeof(to));
	__be16 first;
	__builtin_memcpy(&first, &ip, sizeof(first));
	__u16 class = BE16(first) >> 4;
	first = BE16(0x6000 | (class & 3) << 4 | way->dscp << 6 | (BE16(first) & 0xf));
	__u32 upper = IP_AT + sizeof(ip) + (ip.nexthdr == TCP ? 16 : 2);
	long diff = bpf_csum_diff((__be32 *)&ip.daddr, sizeof(to), to, sizeof(to), 0);
	if ((ip.nexthdr == TCP || ip.nexthdr == ICMP_V6) && bpf_l4_csum_replace(skb, upper, 0, diff, BPF_F_PSEUDO_HDR))
		return -1;
	return bpf_skb_store_bytes(skb, IP_AT, &first, sizeof(first), 0) ||
	       bpf_skb_store_bytes(skb, IP_AT + 24, to, sizeof(to), BPF_F_INVALIDATE_HASH);
}

SEC("classifier")
int oneip_probe(struct __sk_buff *skb)
{
	int is_v6 = skb->protocol == BE16(ETH_P_IPV6);
	if ((skb->mark & MARKS_MASK) != MARKS || (!is_v6 && skb->protocol != BE16(ETH_P_IP)))
		return TC_ACT_UNSPEC;
	__u32 key = (skb->mark & ~MARKS_MASK) << 1 | is_v6;
	struct probe *probe = bpf_map_lookup_elem(&probes, &key);
	if (!probe)
		return TC_ACT_UNSPEC;
	int failed = probe->way.kind != READDRESS ? wrap(skb, &probe->way) :
		     is_v6			  ? readdress_v6(skb, &probe->way) :
						    readdress_v4(skb, &probe->way);
	if (failed)
		return TC_ACT_SHOT;
	/* So that nothing is done twice, on a VLAN's interface and on the one below. */
	skb->mark = 0;
	__sync_fetch_and_add(&probe->sent, 1);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual BSD/GPL";
