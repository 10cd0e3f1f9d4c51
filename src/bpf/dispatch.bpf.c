/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Dispatch: the dispatcher inside the kernel. A frame that was sent to this interface and is destined for a cluster address goes
 * out again, to the server of its client; every other frame goes on to the kernel, untouched.
 */
#include "dispatch.h"

SEC("xdp.frags")
int oneip_dispatch(struct xdp_md *ctx)
{
	return dispatch(ctx, 0);
}

/*
 * For measuring. BPF_PROG_TEST_RUN runs a program again and again on the frame as the run before has left it: these make it one
 * of another client, to another service, of the router. The floor is that and a frame that goes back.
 */
volatile const __u32 measured_services;
volatile const __u32 measured_clients; /* a power of two */

INLINE int renew(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	__u8 *eth = (void *)(long)ctx->data;
	if (eth + ETH_HLEN + sizeof(struct ipv6hdr) > (__u8 *)end)
		return -1;
	__u32 random = bpf_get_prandom_u32();
	__u32 client = random & (measured_clients - 1), service = (random >> 20) * measured_services >> 12;
#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++) {
		eth[i] = own_mac[i];
		eth[ETH_ALEN + i] = 0xee;
	}
	int is_v6 = half_at(eth + 12) == BE16(ETH_P_IPV6);
	if (half_at(eth + 12) == BE16(ETH_P_8021AD)) {
		/* Behind two tags. Who it is from is all that is made anew. */
		if (eth + 46 > (__u8 *)end)
			return -1;
		if (half_at(eth + 20) == BE16(ETH_P_IPV6))
			*(__u32 *)(eth + 42) = BE32(client);
		else
			*(__u32 *)(eth + 34) = BE32(0x0a000000 + client);
	} else if (is_v6) {
		*(__u32 *)(eth + 34) = BE32(client);
		*(__u32 *)(eth + 50) = BE32(service);
	} else {
		*(__u32 *)(eth + 26) = BE32(0x0a000000 + client);
		*(__u32 *)(eth + 30) = BE32(0xcb007100 + service);
	}
	return 0;
}

SEC("xdp.frags")
int oneip_measured(struct xdp_md *ctx)
{
	return renew(ctx) ? XDP_ABORTED : dispatch(ctx, 0);
}

SEC("xdp.frags")
int oneip_floor(struct xdp_md *ctx)
{
	return renew(ctx) ? XDP_ABORTED : XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
