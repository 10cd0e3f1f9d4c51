// Puts a host of the lab on an 802.1Q VLAN where the kernel has no VLAN devices: attached to its interface with tc,
// `push` tags what leaves, `pop` untags what arrives and drops what is not of this VLAN. XDP and AF_XDP are nearer
// to the wire than tc: they see the tags.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

static long (*const vlan_push)(struct __sk_buff *skb, __be16 proto, __u16 tci) = (void *)BPF_FUNC_skb_vlan_push;
static long (*const vlan_pop)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_vlan_pop;

__attribute__((section("push"), used)) int tag(struct __sk_buff *skb)
{
	return vlan_push(skb, __builtin_bswap16(ETH_P_8021Q), VLAN) ? TC_ACT_SHOT : TC_ACT_OK;
}

__attribute__((section("pop"), used)) int untag(struct __sk_buff *skb)
{
	if (!skb->vlan_present || (skb->vlan_tci & 0xfff) != VLAN)
		return TC_ACT_SHOT;
	return vlan_pop(skb) ? TC_ACT_SHOT : TC_ACT_OK;
}
