/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The buckets that times are counted in: the twin of src/metrics/buckets.rs, which has the way back. */
#ifndef ONEIP_BUCKETS_H
#define ONEIP_BUCKETS_H

#include "oneip.h"

/*
 * Log-linear, as HdrHistogram has it with two digits: exact below 256, then 128 buckets for each power of two, so that a bucket
 * is no wider than 1/128 of its values.
 */
#define BUCKETS 3584
/* 2^34 - 1 ns is the last bucket's end. */
#define MAX_NS ((1ULL << 34) - 1)

ONCE __u32 bucket_of(__u64 ns)
{
	if (ns > MAX_NS)
		ns = MAX_NS;
	__u32 shift = 0;
	__u64 rest = ns >> 8;
	/* Position of the highest bit above the lowest eight: by halves, for BPF has no instruction for it. */
	if (rest >> 16) { shift += 16; rest >>= 16; }
	if (rest >> 8) { shift += 8; rest >>= 8; }
	if (rest >> 4) { shift += 4; rest >>= 4; }
	if (rest >> 2) { shift += 2; rest >>= 2; }
	if (rest >> 1) { shift += 1; rest >>= 1; }
	shift += rest;
	return shift * 128 + (__u32)(ns >> shift);
}

#endif
