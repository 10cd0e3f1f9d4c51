/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Drops everything: the floor of perf/bench/flood.sh. */
#include <linux/bpf.h>

__attribute__((section("xdp"), used)) int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char _license[] __attribute__((section("license"), used)) = "Dual BSD/GPL";
