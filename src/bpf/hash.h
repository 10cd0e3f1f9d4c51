/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The hash of a flow, and the remainder of a client: the twin of src/hash and of table::remainder. */
#ifndef ONEIP_HASH_H
#define ONEIP_HASH_H

#include "parse.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "SipHash and the directory take addresses as little-endian words"
#endif

/* SipHash's state before the first word. */
struct key {
	__u64 words[4];
};

#define ROTATE(word, by) ((word) << (by) | (word) >> (64 - (by)))

/* hash::siphash */
INLINE void sip_round(__u64 *v)
{
	v[0] += v[1];
	v[1] = ROTATE(v[1], 13) ^ v[0];
	v[0] = ROTATE(v[0], 32);
	v[2] += v[3];
	v[3] = ROTATE(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = ROTATE(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = ROTATE(v[1], 17) ^ v[2];
	v[2] = ROTATE(v[2], 32);
}

INLINE void absorb(__u64 *v, __u64 word)
{
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
}

/* hash::source and hash::flow */
INLINE __u64 siphash(const __u64 *key, const struct flow *flow, __u64 by_flow)
{
	__u64 v[4] = { key[0], key[1], key[2], key[3] };
	__u64 ports = 0;
	if (by_flow)
		ports = (__u64)flow->source | (__u64)flow->destination << 16 | (__u64)flow->transport << 32;
	__u64 last;
	if (flow->is_v6) {
		absorb(v, flow->client[0]);
		absorb(v, flow->client[1]);
		last = (__u64)16 << 56;
		if (by_flow) {
			absorb(v, flow->cluster[0]);
			absorb(v, flow->cluster[1]);
			last = ports | (__u64)37 << 56;
		}
	} else {
		last = flow->client[0] | (__u64)4 << 56;
		if (by_flow) {
			absorb(v, flow->client[0] | flow->cluster[0] << 32);
			last = ports | (__u64)13 << 56;
		}
	}
	absorb(v, last);
	v[2] ^= 0xff;
	sip_round(v);
	sip_round(v);
	sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* table::remainder: the client's address as a number, divided by how many servers. */
INLINE __u32 remainder(const struct flow *flow, __u32 servers)
{
	if (!flow->is_v6)
		return BE32(flow->client[0]) % servers;
	__u64 left = 0;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		left = (left << 32 | BE32((__u32)flow->client[i])) % servers;
		left = (left << 32 | BE32((__u32)(flow->client[i] >> 32))) % servers;
	}
	return left;
}

#endif
