/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sends every frame back with its MAC addresses swapped: the floor of a dispatcher inside the kernel. */
#include <linux/bpf.h>

__attribute__((section("xdp"), used)) int macswap(struct xdp_md *ctx)
{
	__u16 *frame = (void *)(long)ctx->data;
	int i;

	if ((void *)(frame + 6) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	for (i = 0; i < 3; i++) {
		__u16 word = frame[i];

		frame[i] = frame[i + 3];
		frame[i + 3] = word;
	}
	return XDP_TX;
}

char _license[] __attribute__((section("license"), used)) = "Dual BSD/GPL";
