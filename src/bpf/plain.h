/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The frames that nearly all are: TCP or UDP, without options, extension headers or fragments, and nothing wrong: the twin of
 * src/path/fast_path.rs. Whoever finds another reads it in full (parse.h).
 */
#ifndef ONEIP_PLAIN_H
#define ONEIP_PLAIN_H

#include "parse.h"

INLINE __u16 half_at(const void *at)
{
	return *(const __u16 *)at;
}

INLINE __u32 word_at(const void *at)
{
	return *(const __u32 *)at;
}

INLINE __u64 long_at(const void *at)
{
	return *(const __u64 *)at;
}

/*
 * path::fast_path, behind the IP header: whether the transport header at `upper` is whole, of `room` bytes that the packet has
 * there. The first 8 bytes are there.
 */
INLINE int plain_upper(void *upper, void *end, __u32 protocol, __u32 room, struct flow *flow)
{
	__u32 len;
	if (protocol == UDP) {
		len = BE16(half_at(upper + 4));
		if (len < 8)
			return 0;
	} else {
		if (protocol != TCP || upper + 20 > end)
			return 0;
		__u32 word = half_at(upper + 12);
		len = (word & 0xf0) >> 2;
		if (len < 20)
			return 0;
		flow->begins = (word >> 8 & 0x12) == 0x02;
	}
	flow->upper = PORTS;
	flow->transport = protocol;
	flow->source = half_at(upper);
	flow->destination = half_at(upper + 2);
	return len <= room;
}

/* path::fast_path::HeadersV4: no options, no fragment, nothing wrong. */
INLINE int plain_v4(void *ip, void *end, __u32 room, struct flow *flow)
{
	if (ip + sizeof(struct iphdr) + 8 > end)
		return 0;
	__u64 first = long_at(ip), second = long_at(ip + 8);
	__u32 total = BE16(first >> 16);
	if ((first & 0xff3f0000000000ff) != 0x45 || total > room || total < sizeof(struct iphdr) || !(second & 0xff))
		return 0;
	flow->client[0] = second >> 32;
	flow->cluster[0] = word_at(ip + 16);
	return plain_upper(ip + sizeof(struct iphdr), end, second >> 8 & 0xff, total - sizeof(struct iphdr), flow);
}

/* path::fast_path::HeadersV6: no extension headers, nothing wrong. */
INLINE int plain_v6(void *ip, void *end, __u32 room, struct flow *flow)
{
	if (ip + sizeof(struct ipv6hdr) + 8 > end)
		return 0;
	__u64 first = long_at(ip);
	__u32 len = BE16(first >> 32);
	if ((first & 0xf0) != 0x60 || len + sizeof(struct ipv6hdr) > room || !(first >> 56))
		return 0;
	flow->is_v6 = 1;
	flow->client[0] = long_at(ip + 8);
	flow->client[1] = long_at(ip + 16);
	flow->cluster[0] = long_at(ip + 24);
	flow->cluster[1] = long_at(ip + 32);
	return plain_upper(ip + sizeof(struct ipv6hdr), end, first >> 48 & 0xff, len, flow);
}

/* Of a frame of so many bytes, behind at most one tag. The Ethernet header is there. */
INLINE int is_plain(void *eth, void *end, __u32 bytes, struct flow *flow)
{
	__u16 proto = half_at(eth + 12);
	if (proto == BE16(ETH_P_IP))
		return plain_v4(eth + ETH_HLEN, end, bytes - ETH_HLEN, flow);
	if (proto == BE16(ETH_P_IPV6))
		return plain_v6(eth + ETH_HLEN, end, bytes - ETH_HLEN, flow);
	if (proto != BE16(ETH_P_8021Q) || eth + ETH_HLEN + 4 > end)
		return 0;
	proto = half_at(eth + 16);
	if (proto == BE16(ETH_P_IP))
		return plain_v4(eth + ETH_HLEN + 4, end, bytes - ETH_HLEN - 4, flow);
	if (proto == BE16(ETH_P_IPV6))
		return plain_v6(eth + ETH_HLEN + 4, end, bytes - ETH_HLEN - 4, flow);
	return 0;
}

#endif
