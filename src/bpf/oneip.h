/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the BPF programs share: the dialect in which maps and helpers are declared, and the headers' shapes. */
#ifndef ONEIP_H
#define ONEIP_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
/* The verifier looks at such a function once, and not once for each way to it and each way on from it. */
#define ONCE __attribute__((noinline))
/* Seldom run: it shall not take the registers of what is. */
#define COLD static __attribute__((noinline))

/* BTF-defined maps, https://docs.kernel.org/bpf/btf.html: the type of a member carries its value. */
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]

/* Helpers by number, linux/include/uapi/linux/bpf.h. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;
static long (*bpf_xdp_adjust_meta)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_meta;
static __u64 (*bpf_xdp_get_buff_len)(struct xdp_md *ctx) = (void *)BPF_FUNC_xdp_get_buff_len;
static long (*bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_head;
static long (*bpf_xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_tail;
static long (*bpf_csum_diff)(__be32 *from, __u32 from_size, __be32 *to, __u32 to_size, __u32 seed) = (void *)BPF_FUNC_csum_diff;
static long (*bpf_xdp_load_bytes)(struct xdp_md *ctx, __u32 offset, void *to, __u32 len) = (void *)BPF_FUNC_xdp_load_bytes;
static long (*bpf_xdp_store_bytes)(struct xdp_md *ctx, __u32 offset, const void *from, __u32 len) = (void *)BPF_FUNC_xdp_store_bytes;
static struct bpf_sock *(*bpf_skc_lookup_tcp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 tuple_size, __u64 netns,
					      __u64 flags) = (void *)BPF_FUNC_skc_lookup_tcp;
static long (*bpf_tcp_check_syncookie)(void *sock, void *ip, __u32 ip_len, void *tcp,
					__u32 tcp_len) = (void *)BPF_FUNC_tcp_check_syncookie;
static __u32 (*bpf_get_prandom_u32)(void) = (void *)BPF_FUNC_get_prandom_u32;
static __u32 (*bpf_get_smp_processor_id)(void) = (void *)BPF_FUNC_get_smp_processor_id;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*bpf_ringbuf_output)(void *ringbuf, void *data, __u64 size, __u64 flags) = (void *)BPF_FUNC_ringbuf_output;
static long (*bpf_sk_release)(void *sock) = (void *)BPF_FUNC_sk_release;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BE16(value) ((__be16)__builtin_bswap16(value))
#define BE32(value) ((__be32)__builtin_bswap32(value))
#define BE64(value) ((__be64)__builtin_bswap64(value))
#else
#define BE16(value) ((__be16)(value))
#define BE32(value) ((__be32)(value))
#define BE64(value) ((__be64)(value))
#endif

/*
 * The value, of which the verifier knows nothing, as it knows nothing of `any`. Where it knows an offset on one way to an
 * instruction and not on another, or another one, it wants CAP_PERFMON (kernel/bpf/verifier.c, sanitize_ptr_alu).
 */
INLINE __u32 hidden(__u32 value, __u32 any)
{
	value ^= any;
	asm volatile("" : "+r"(value));
	return value ^ any;
}

/* Tags that are looked through: limits::MAX_VLAN_TAGS. */
#define MAX_VLAN_TAGS 2

/* IEEE 802.1Q: behind the ethertype that announced it. */
struct vlan_tag {
	__be16 control;
	__be16 proto;
};

/* The interface's own address. A switch floods frames for other hosts to us too: taking one would have it answered twice. */
volatile const __u8 own_mac[ETH_ALEN];

INLINE int is_own(const __u8 *mac)
{
#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		if (mac[i] != own_mac[i])
			return 0;
	return 1;
}

#endif
