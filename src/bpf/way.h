/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What packets to one server get: the twin of table::Way, as src/xdp/way.rs lays it out. */
#ifndef ONEIP_WAY_H
#define ONEIP_WAY_H

#include "oneip.h"

#define WAY_HEADER 48

enum kind { DIRECT, TUNNEL_V4, TUNNEL_V6, READDRESS };

/* model::Tags */
enum tags { AS_RECEIVED, UNTAGGED, TAGGED };

struct way {
	__u8 header[WAY_HEADER]; /* the template; of READDRESS the address */
	__u32 sum;               /* wire::tunnel::Template::sum; of READDRESS, of the address */
	__u32 inner_mtu;
	__u8 kind;
	__u8 len;                /* of the header */
	__u8 is_udp;
	__u8 dscp;
	__u16 vlan;              /* of TAGGED */
	__u8 tags;
	__u8 unused;
};
_Static_assert(sizeof(struct way) == 64, "src/xdp/way.rs");

#endif
