/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which TCP connections a server has: the kernel knows. Included by the programs of servers. */
#ifndef ONEIP_SOCKETS_H
#define ONEIP_SOCKETS_H

#include "parse.h"

/*
 * Whether the segment, of which a listening socket was found, ends a handshake of that socket's: under a flood it remembers
 * nobody, and knows its own by the cookie that comes back (net/core/filter.c, bpf_tcp_check_syncookie).
 */
INLINE int has_cookie(struct xdp_md *ctx, struct bpf_sock *sock, const struct packet *packet, const struct flow *flow)
{
	struct tcphdr tcp;
	if (bpf_xdp_load_bytes(ctx, packet->at, &tcp, sizeof(tcp)))
		return 0;
	if (flow->is_v6) {
		struct ipv6hdr ip = { .version = 6 };
		__builtin_memcpy(&ip.saddr, flow->client, sizeof(ip.saddr));
		__builtin_memcpy(&ip.daddr, flow->cluster, sizeof(ip.daddr));
		return !bpf_tcp_check_syncookie(sock, &ip, sizeof(ip), &tcp, sizeof(tcp));
	}
	struct iphdr ip = { .version = 4, .ihl = 5 };
	ip.saddr = flow->client[0];
	ip.daddr = flow->cluster[0];
	return !bpf_tcp_check_syncookie(sock, &ip, sizeof(ip), &tcp, sizeof(tcp));
}

INLINE __u32 tuple_of(const struct flow *flow, struct bpf_sock_tuple *tuple)
{
	if (flow->is_v6) {
		__builtin_memcpy(tuple->ipv6.saddr, flow->client, sizeof(tuple->ipv6.saddr));
		__builtin_memcpy(tuple->ipv6.daddr, flow->cluster, sizeof(tuple->ipv6.daddr));
		tuple->ipv6.sport = flow->source;
		tuple->ipv6.dport = flow->destination;
		return sizeof(tuple->ipv6);
	}
	tuple->ipv4.saddr = flow->client[0];
	tuple->ipv4.daddr = flow->cluster[0];
	tuple->ipv4.sport = flow->source;
	tuple->ipv4.dport = flow->destination;
	return sizeof(tuple->ipv4);
}

/* What this server has of a connection. HANDSHAKE: its kernel has answered a SYN, which anybody can have sent. */
enum socket { NO_SOCKET, HANDSHAKE, CONNECTION };

/*
 * A listening socket has no connection, and is found for every stranger's segment; but of an owner's it may be the end of a handshake.
 * A function of its own: what it has on the stack comes not on top of what others have, for which Linux 6.1 has no room.
 */
COLD int find_socket(struct xdp_md *ctx, const struct packet *packet, const struct flow *flow, int is_owner)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = tuple_of(flow, &tuple);
	struct bpf_sock *sock = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sock)
		return NO_SOCKET;
	int found = CONNECTION;
	if (sock->state == BPF_TCP_NEW_SYN_RECV)
		found = HANDSHAKE;
	else if (sock->state == BPF_TCP_LISTEN && !(is_owner && !flow->is_quoted && has_cookie(ctx, sock, packet, flow)))
		found = NO_SOCKET;
	bpf_sk_release(sock);
	return found;
}

#endif
