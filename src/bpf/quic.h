/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose a QUIC connection is, by its connection ID in plaintext: the twin of src/path/quic.rs, src/table/quic.rs and src/wire/quic.rs, as
 * src/xdp/quic.rs lays it out. What is encrypted says nothing here.
 */
#ifndef ONEIP_QUIC_H
#define ONEIP_QUIC_H

#include "select.h"

/*
 * In a directory of entries, by service: its configs, each with its number for an address, and what stands in the place of services is how
 * long server IDs are, and how long a connection ID is at least; and its server IDs, whose port says how long they are, with their servers.
 */
#define CONFIG 1
#define SERVER_ID 2
#define MAX_SERVER_ID 15

INLINE __u32 quic_key(__u16 service, __u8 kind, __u8 length)
{
	return (__u32)service << 16 | kind << 8 | length;
}

/* The first bytes of the shortest datagram with a connection ID that says something: its UDP header, and as many of a long header. */
#define QUIC_HEAD (8 + 7)
#define LONG_HEADER 0x80

/* No server. */
#define UNKNOWN_ID 0xffff

/* table::quic::ConnectionIds::server, of a whole UDP packet whose header is at `udp`. What the directory has, or UNKNOWN_ID. */
INLINE __u32 server_by_id(struct xdp_md *ctx, void *map, const struct directory *directory, __u16 service, __u32 udp)
{
	__u8 head[QUIC_HEAD];
	if (bpf_xdp_load_bytes(ctx, udp, head, sizeof(head)))
		return UNKNOWN_ID;
	__u32 left = (__u32)head[4] << 8 | head[5], first = head[9], at = udp + 9;
	if (left < QUIC_HEAD)
		return UNKNOWN_ID;
	left -= 9;
	if (head[8] & LONG_HEADER) {
		/* Behind the version, a byte says how long it is. */
		if (left - 5 < head[13])
			return UNKNOWN_ID;
		left = head[13];
		first = head[14];
		at += 5;
	}
	__u64 id[2] = { first >> 5, 0 };
	struct entry *config = find(map, directory, id, quic_key(service, CONFIG, 0));
	if (!config || left < config->services.whole)
		return UNKNOWN_ID;
	/* One less: the verifier of Linux 6.1 follows a number's bounds through this sum, and not that it is not 0. */
	__u32 less = config->services.service - 1;
	asm volatile("" : "+r"(less));
	id[0] = 0;
	if (less >= MAX_SERVER_ID || bpf_xdp_load_bytes(ctx, at + 1, id, less + 1))
		return UNKNOWN_ID;
	struct entry *server = find(map, directory, id, quic_key(service, SERVER_ID, less + 1));
	return server ? server->services.service : UNKNOWN_ID;
}

#endif
