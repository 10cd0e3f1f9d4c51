/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Filter: broadcast-based dispatch, on a server. Of the frames to a cluster address, which every server of the cluster
 * receives, it keeps those of this server's clients and drops the others'. Everything else goes on to the kernel, untouched.
 *
 * What a frame says is judged as src/path does (parse, select), and a client has the slot that src/hash gives it: one
 * definition, and tests/filter holds the two together. Whose a slot is stands in a table that src/filter/generation.rs
 * writes; a frame is decided by one table from beginning to end.
 *
 * Behind the Ethernet header, what is not where it nearly always is is read by bpf_xdp_load_bytes: pointers into the packet
 * with computed offsets need CAP_PERFMON (kernel/bpf/verifier.c, sanitize_ptr_alu), and of a jumbo frame only the beginning
 * has an address.
 */
#include "oneip.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "SipHash and the directory take addresses as little-endian words"
#endif

/* What becomes of a frame, each with a counter; in the order of filter::counts. */
enum verdict { PASSED, KEPT, ANOTHERS, NO_SERVICE, MALFORMED, TTL, NO_SERVER, VERDICTS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* What was kept of each service, by its account. */
struct kept {
	__u64 frames;
	__u64 bytes; /* of whole frames, Ethernet header included */
	__u64 flows; /* TCP connections begun: SYN without ACK */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u32);
	__type(value, struct kept);
} kept SEC(".maps");

/*
 * A table is an array of cells: the head; the directory, each cell a bucket of entries; the services; then the slots of
 * each service, two bits a slot. Its size is the table's own (BPF_F_INNER_MAP).
 */
#define CELL 1024

struct head {
	__u64 key[4];     /* SipHash's state before the first word */
	__u64 factor;     /* of the directory's hash, whose upper bits are bucket and place */
	__u32 shift;      /* what is left of it */
	__u32 directory;  /* first cell */
	__u32 services;   /* first cell */
	__u32 unused;
};

#define ENTRIES (CELL / sizeof(struct entry))
#define ENTRIES_BITS 5
/* An entry is at most so many places behind its own, or at the bucket's beginning again. */
#define PROBES 8

/* A port of a cluster address, or, with the port 0 of protocol 0, the address itself. */
struct entry {
	__u64 address[2];       /* as in the packet; IPv4: the first half word of it */
	__u32 port;             /* port_key; 0: free */
	__u16 service;          /* of the port; of the address: that which has every protocol and port */
	__u16 whole;            /* for what belongs to the address as a whole */
	__u16 by_transport[3];  /* for what has no ports: TCP, UDP, SCTP */
	__u16 unused;
};

#define NO_SERVICE_ID 0xffff

#define SERVICES (CELL / sizeof(struct service))

struct service {
	__u32 slots;
	__u32 owners;      /* first cell of the slots */
	__u32 moves;       /* first cell of who keeps what moves; 0: nothing does */
	__u32 servers;     /* selection by remainder: how many; 0: by hash */
	__u32 remainders;  /* the cell of these */
	__u32 flags;
	__u32 account;
	__u32 unused;
};

#define BY_FLOW 1
/* Every client moves. */
#define ALL_MOVE 2

/*
 * Whose a slot is. LENT: this server's, but the first choice of another one, which may come back: it is this server's as
 * long as the lease is renewed. Where clients move: who has their connections, and NOBODY where none move.
 */
enum owner { NOBODY, MINE, THEIRS, LENT };

struct cells {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP);
	__type(key, __u32);
	__type(value, __u64[CELL / 8]);
};

/* The table. The loader puts another in its place whole. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__array(values, struct cells);
} table SEC(".maps");

/* Until when slots that are LENT are this server's, by bpf_ktime_get_ns. A process that hangs does not renew it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lease SEC(".maps");

/* Bounds and numbers of src/wire; <linux/in.h> and <linux/icmp.h> include what this target does not have. */
#define MAX_EXTENSION_HEADERS 8
enum { ICMP_V4 = 1, TCP = 6, UDP = 17, ICMP_V6 = 58, SCTP = 132, UNKNOWN = 256 };

enum fragment { WHOLE, FIRST, LATER };

/* An IP packet, or as much as an ICMP error quotes of one. */
struct packet {
	__u64 source[2];
	__u64 destination[2];
	__u32 at;  /* of the payload, in the frame */
	__u32 len; /* of the payload */
	__u16 protocol;
	__u8 fragment;
	__u8 ttl;
};

/* path::parse::Upper */
enum upper { PORTS, FIRST_FRAGMENT, LATER_FRAGMENT, ADDRESS, OTHER, FOREIGN };

struct flow {
	__u64 client[2];
	__u64 cluster[2];
	__u8 upper;
	__u8 transport; /* of the first three */
	__u8 begins;    /* a SYN without ACK */
	__u8 is_v6;
	__be16 source; /* ports of the first two, as the client sends them */
	__be16 destination;
};

/* 0, or the frame is too short. At these places stand untagged packets' headers, without options. */
INLINE long load(struct xdp_md *ctx, __u32 at, void *to, const __u32 len)
{
	void *end = (void *)(long)ctx->data_end, *data = (void *)(long)ctx->data;
	/* Kept apart, or clang computes one place for all of them. */
#define AT(place)                                                  \
	if (at == (place)) {                                       \
		asm volatile("" : "+r"(data));                     \
		if (data + (place) + len <= end) {                 \
			__builtin_memcpy(to, data + (place), len); \
			return 0;                                  \
		}                                                  \
	}
	AT(ETH_HLEN)
	AT(ETH_HLEN + sizeof(struct iphdr))
	AT(ETH_HLEN + sizeof(struct ipv6hdr))
#undef AT
	return bpf_xdp_load_bytes(ctx, at, to, len);
}

INLINE void *cell(void *map, __u32 index)
{
	return bpf_map_lookup_elem(map, &index);
}

INLINE int is_transport(__u16 protocol)
{
	return protocol == TCP || protocol == UDP || protocol == SCTP;
}

/* wire::ipv4. 0, or a verdict */
INLINE int read_v4(const struct iphdr *ip, __u32 at, __u32 room, int cut, struct packet *packet)
{
	__u32 header = ip->ihl * 4, total = BE16(ip->tot_len), part = BE16(ip->frag_off);
	if (ip->version != 4 || header < sizeof(*ip) || header > room || total < header)
		return MALFORMED;
	if (total > room) {
		if (!cut)
			return MALFORMED;
		total = room;
	}
	packet->source[0] = ip->saddr;
	packet->source[1] = 0;
	packet->destination[0] = ip->daddr;
	packet->destination[1] = 0;
	packet->at = at + header;
	packet->len = total - header;
	packet->protocol = ip->protocol;
	packet->ttl = ip->ttl;
	packet->fragment = part & 0x1fff ? LATER : part & 0x2000 ? FIRST : WHOLE;
	return 0;
}

/* wire::ipv6, before the extension headers. 0, or a verdict */
INLINE int read_v6(const struct ipv6hdr *ip, __u32 at, __u32 room, int cut, struct packet *packet)
{
	__u32 len = BE16(ip->payload_len);
	room -= sizeof(*ip);
	if (ip->version != 6 || (len > room && !cut))
		return MALFORMED;
	__builtin_memcpy(packet->source, &ip->saddr, sizeof(packet->source));
	__builtin_memcpy(packet->destination, &ip->daddr, sizeof(packet->destination));
	packet->at = at + sizeof(*ip);
	packet->len = len > room ? room : len;
	packet->protocol = ip->nexthdr;
	packet->ttl = ip->hop_limit;
	packet->fragment = WHOLE;
	return 0;
}

INLINE int is_extension(__u16 protocol)
{
	switch (protocol) {
	case 0:   /* hop by hop */
	case 43:  /* routing */
	case 44:  /* fragment */
	case 51:  /* authentication */
	case 60:  /* destination options */
	case 135: /* mobility */
	case 139: /* host identity */
	case 140: /* shim6 */
		return 1;
	}
	return 0;
}

/* wire::ipv6::Ipv6::upper. 0, or a verdict */
static __attribute__((noinline)) int walk(struct xdp_md *ctx, struct packet *packet)
{
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		__u16 protocol = packet->protocol;
		if (!is_extension(protocol))
			return 0;
		__u8 header[4];
		if (packet->len < 8 || bpf_xdp_load_bytes(ctx, packet->at, header, sizeof(header)))
			return MALFORMED;
		__u32 len = protocol == 44 ? 8 : protocol == 51 ? 8 + 4 * header[1] : 8 + 8 * header[1];
		if (len > packet->len)
			return MALFORMED;
		packet->protocol = header[0];
		packet->at += len;
		packet->len -= len;
		if (protocol == 44) {
			if (header[2] || header[3] & 0xf8) {
				packet->fragment = LATER;
				packet->len = 0;
				if (is_extension(header[0]))
					packet->protocol = UNKNOWN;
				return 0;
			}
			if (header[3] & 1)
				packet->fragment = FIRST;
		}
	}
	if (is_extension(packet->protocol)) {
		packet->protocol = UNKNOWN;
		packet->len = 0;
	}
	return 0;
}

/* wire::transport, and path::parse::upper. 0, or a verdict */
INLINE int read_upper(struct xdp_md *ctx, const struct packet *packet, struct flow *flow)
{
	if (!is_transport(packet->protocol)) {
		flow->upper = packet->fragment == LATER && packet->protocol == UNKNOWN ? ADDRESS : OTHER;
		return 0;
	}
	flow->transport = packet->protocol;
	flow->upper = LATER_FRAGMENT;
	if (packet->fragment == LATER)
		return 0;
	if (packet->fragment == FIRST) {
		__be16 ports[2];
		if (packet->len < sizeof(ports))
			return 0;
		if (bpf_xdp_load_bytes(ctx, packet->at, ports, sizeof(ports)))
			return MALFORMED;
		flow->upper = FIRST_FRAGMENT;
		flow->source = ports[0];
		flow->destination = ports[1];
		return 0;
	}
	union {
		__be16 words[8];
		__u8 bytes[16];
	} header;
	if (packet->protocol == TCP) {
		if (packet->len < 20 || load(ctx, packet->at, &header, 16))
			return MALFORMED;
		__u32 offset = (header.bytes[12] >> 4) * 4;
		if (offset < 20 || offset > packet->len)
			return MALFORMED;
		flow->begins = (header.bytes[13] & 0x12) == 0x02;
	} else {
		if (packet->len < 8 || load(ctx, packet->at, &header, 8))
			return MALFORMED;
		if (packet->protocol == UDP) {
			__u32 len = BE16(header.words[2]);
			if (len < 8 || len > packet->len)
				return MALFORMED;
		} else if (packet->len < 12) {
			return MALFORMED;
		}
	}
	flow->upper = PORTS;
	flow->source = header.words[0];
	flow->destination = header.words[1];
	return 0;
}

/*
 * path::parse::quoted_v4 and quoted_v6: the packet that an ICMP error is about went from the cluster address to the client.
 * 0, or a verdict
 */
static __attribute__((noinline)) int read_quoted(struct xdp_md *ctx, __u32 at, __u32 room, struct flow *flow)
{
	struct packet packet;
	__u16 icmp;
	int wrong;
	if (flow->is_v6) {
		struct ipv6hdr ip;
		if (room < sizeof(ip) || bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)))
			return MALFORMED;
		wrong = read_v6(&ip, at, room, 1, &packet);
		icmp = ICMP_V6;
	} else {
		struct iphdr ip;
		if (room < sizeof(ip) || bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)))
			return MALFORMED;
		wrong = read_v4(&ip, at, room, 1, &packet);
		icmp = ICMP_V4;
	}
	if (wrong)
		return wrong;
	if (packet.source[0] != flow->cluster[0] || packet.source[1] != flow->cluster[1]) {
		flow->upper = FOREIGN;
		return 0;
	}
	if (flow->is_v6) {
		wrong = walk(ctx, &packet);
		if (wrong)
			return wrong;
	}
	flow->client[0] = packet.destination[0];
	flow->client[1] = packet.destination[1];
	if (packet.protocol == icmp || packet.protocol == UNKNOWN) {
		flow->upper = ADDRESS;
		return 0;
	}
	if (!is_transport(packet.protocol)) {
		flow->upper = OTHER;
		return 0;
	}
	flow->transport = packet.protocol;
	flow->upper = LATER_FRAGMENT;
	if (packet.fragment == LATER)
		return 0;
	__be16 ports[2];
	if (packet.len < sizeof(ports))
		return packet.fragment == WHOLE ? MALFORMED : 0;
	if (bpf_xdp_load_bytes(ctx, packet.at, ports, sizeof(ports)))
		return MALFORMED;
	flow->upper = PORTS;
	flow->source = ports[1];
	flow->destination = ports[0];
	return 0;
}

/* wire::icmp, and path::parse::flow_v4 and flow_v6 behind the header. 0, or a verdict */
INLINE int read_flow(struct xdp_md *ctx, struct packet *packet, struct flow *flow)
{
	if (!packet->ttl)
		return TTL;
	if (flow->is_v6) {
		int wrong = walk(ctx, packet);
		if (wrong)
			return wrong;
	}
	flow->client[0] = packet->source[0];
	flow->client[1] = packet->source[1];
	if (packet->protocol != (flow->is_v6 ? ICMP_V6 : ICMP_V4))
		return read_upper(ctx, packet, flow);
	if (packet->fragment != WHOLE) {
		flow->upper = ADDRESS;
		return 0;
	}
	__u8 type;
	if (packet->len < 8 || bpf_xdp_load_bytes(ctx, packet->at, &type, sizeof(type)))
		return MALFORMED;
	int is_echo = type == (flow->is_v6 ? 128 : 8);
	int is_error = flow->is_v6 ? type < 128 : type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
	if (is_error)
		return read_quoted(ctx, packet->at + 8, packet->len - 8, flow);
	flow->upper = is_echo ? ADDRESS : OTHER;
	return 0;
}

/* A protocol and a port of one family in one word. Never 0. */
INLINE __u32 port_key(int is_v6, __u8 protocol, __be16 port)
{
	return (__u32)port << 16 | (is_v6 ? 6 : 4) << 8 | protocol;
}

/* filter::directory. */
INLINE struct entry *find(void *map, const struct head *head, const __u64 *address, __u32 port)
{
	__u64 hash = (address[0] + address[1] * 0x9e3779b97f4a7c15 + port * 0xbf58476d1ce4e5b9) * head->factor;
	hash >>= head->shift & 63;
	struct entry *bucket = cell(map, head->directory + (__u32)(hash >> ENTRIES_BITS));
	if (!bucket)
		return 0;
	for (__u32 i = 0; i < PROBES; i++) {
		struct entry *entry = &bucket[(hash + i) & (ENTRIES - 1)];
		if (!entry->port)
			return 0;
		if (entry->port == port && entry->address[0] == address[0] && entry->address[1] == address[1])
			return entry;
	}
	return 0;
}

/* path::select::choose */
INLINE __u16 choose(void *map, const struct head *head, const struct entry *address, const struct flow *flow)
{
	struct entry *port;
	switch (flow->upper) {
	case PORTS:
	case FIRST_FRAGMENT:
		port = find(map, head, flow->cluster, port_key(flow->is_v6, flow->transport, flow->destination));
		return port ? port->service : address->service;
	case LATER_FRAGMENT:
		if (flow->transport == TCP)
			return address->by_transport[0];
		return flow->transport == UDP ? address->by_transport[1] : address->by_transport[2];
	case ADDRESS:
		return address->whole;
	case OTHER:
		return address->service;
	}
	return NO_SERVICE_ID;
}

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
INLINE __u64 siphash(const struct head *head, const struct flow *flow, int by_flow)
{
	__u64 v[4] = { head->key[0], head->key[1], head->key[2], head->key[3] };
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

/* What stands at a slot: four of them a byte. */
INLINE __u32 at_slot(void *map, __u32 first, __u32 slot)
{
	__u8 *slots = cell(map, first + slot / (4 * CELL));
	if (!slots)
		return NOBODY;
	return slots[slot / 4 & (CELL - 1)] >> (slot & 3) * 2 & 3;
}

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

/*
 * Whether this server has the connection. A listening socket has none, and is found for every stranger's segment; but of an
 * owner's it may be the end of a handshake.
 */
INLINE int has_socket(struct xdp_md *ctx, const struct packet *packet, const struct flow *flow, int is_owner)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = sizeof(tuple.ipv4);
	if (flow->is_v6) {
		__builtin_memcpy(tuple.ipv6.saddr, flow->client, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, flow->cluster, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = flow->source;
		tuple.ipv6.dport = flow->destination;
		size = sizeof(tuple.ipv6);
	} else {
		tuple.ipv4.saddr = flow->client[0];
		tuple.ipv4.daddr = flow->cluster[0];
		tuple.ipv4.sport = flow->source;
		tuple.ipv4.dport = flow->destination;
	}
	struct bpf_sock *sock = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sock)
		return 0;
	int has = sock->state != BPF_TCP_LISTEN || (is_owner && has_cookie(ctx, sock, packet, flow));
	bpf_sk_release(sock);
	return has;
}

/*
 * path::follow, with the kernel for a memory. While a client moves, a TCP connection is where its socket is, and one that
 * begins is the owner's. A segment without a socket here is dropped, though this server be the owner: the kernel would
 * answer with a reset, and end a connection that another server has. Of a fragment no socket can be found: it goes to who
 * kept the connections. Other protocols are the owner's at once.
 */
INLINE __u32 follow(struct xdp_md *ctx, const struct packet *packet, const struct flow *flow, __u32 owner, __u32 keeper)
{
	if (flow->upper > LATER_FRAGMENT || flow->transport != TCP || flow->begins)
		return owner;
	if (flow->upper != PORTS)
		return keeper;
	if (has_socket(ctx, packet, flow, owner == MINE))
		return MINE;
	return owner == MINE ? THEIRS : owner;
}

INLINE int is_leased(void)
{
	__u32 zero = 0;
	__u64 *until = bpf_map_lookup_elem(&lease, &zero);
	return until && bpf_ktime_get_ns() < *until;
}

/* path::select::input, and who gets the client. */
INLINE __u32 select(struct xdp_md *ctx, void *map, const struct head *head, const struct service *service,
		    const struct packet *packet, const struct flow *flow)
{
	__u32 owner = NOBODY, keeper = NOBODY;
	__u32 servers = service->servers;
	if (servers)
		owner = at_slot(map, service->remainders, remainder(flow, servers));
	if (owner == NOBODY) {
		__u64 hash = siphash(head, flow, service->flags & BY_FLOW && flow->upper == PORTS);
		__u32 slot = (hash >> 32) * service->slots >> 32;
		owner = at_slot(map, service->owners, slot);
		if (service->moves)
			keeper = at_slot(map, service->moves, slot);
	}
	if (owner == LENT) {
		owner = MINE;
		/* Whose they are may be back. What was begun here stays while its socket does. */
		if (!is_leased())
			owner = keeper = THEIRS;
	}
	if (service->flags & ALL_MOVE)
		keeper = owner;
	else if (keeper == NOBODY)
		return owner;
	return follow(ctx, packet, flow, owner, keeper);
}

/* Where the IP header begins behind at most MAX_VLAN_TAGS tags, as wire::ethernet. The Ethernet header is there. */
INLINE __u32 find_ip(void *data, void *end, __be16 *proto)
{
	struct ethhdr *eth = data;
	__u32 at = sizeof(*eth);
	*proto = eth->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		struct vlan_tag *tag = data + sizeof(*eth) + i * sizeof(*tag);
		if ((*proto != BE16(ETH_P_8021Q) && *proto != BE16(ETH_P_8021AD)) || (void *)(tag + 1) > end)
			break;
		*proto = tag->proto;
		at += sizeof(*tag);
	}
	return at;
}

INLINE void count(struct xdp_md *ctx, __u32 account, const struct flow *flow)
{
	struct kept *sum = bpf_map_lookup_elem(&kept, &account);
	if (!sum)
		return;
	sum->frames++;
	sum->bytes += bpf_xdp_get_buff_len(ctx);
	sum->flows += flow->upper == PORTS && flow->begins;
}

/* A frame too short to hold a destination address has none, and is the kernel's. */
INLINE __u32 judge(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > end || !(eth->h_dest[0] & 1 || is_own(eth->h_dest)))
		return PASSED;
	__be16 proto;
	__u32 at = find_ip(eth, end, &proto);
	struct flow flow = { .is_v6 = proto == BE16(ETH_P_IPV6) };
	if (!flow.is_v6 && proto != BE16(ETH_P_IP))
		return PASSED;

	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&table, &zero);
	if (!map)
		return PASSED;
	struct head *head = cell(map, 0);
	if (!head)
		return PASSED;

	struct packet packet = {};
	struct entry *address;
	int wrong;
	__u32 room = (__u32)bpf_xdp_get_buff_len(ctx) - at;
	if (flow.is_v6) {
		struct ipv6hdr ip;
		if (load(ctx, at, &ip, sizeof(ip)))
			return PASSED;
		__builtin_memcpy(flow.cluster, &ip.daddr, sizeof(flow.cluster));
		address = find(map, head, flow.cluster, port_key(1, 0, 0));
		if (!address)
			return PASSED;
		wrong = read_v6(&ip, at, room, 0, &packet);
	} else {
		struct iphdr ip;
		if (load(ctx, at, &ip, sizeof(ip)))
			return PASSED;
		flow.cluster[0] = ip.daddr;
		address = find(map, head, flow.cluster, port_key(0, 0, 0));
		if (!address)
			return PASSED;
		wrong = read_v4(&ip, at, room, 0, &packet);
	}
	if (!wrong)
		wrong = read_flow(ctx, &packet, &flow);
	if (wrong)
		return wrong;

	__u16 id = choose(map, head, address, &flow);
	if (id == NO_SERVICE_ID)
		return NO_SERVICE;
	struct service *services = cell(map, head->services + id / SERVICES);
	if (!services)
		return NO_SERVICE;
	struct service *service = &services[id % SERVICES];
	__u32 owner = select(ctx, map, head, service, &packet, &flow);
	if (owner != MINE)
		return owner == THEIRS ? ANOTHERS : NO_SERVER;
	count(ctx, service->account, &flow);
	return KEPT;
}

SEC("xdp.frags")
int filter(struct xdp_md *ctx)
{
	__u32 verdict = judge(ctx);
	__u64 *frames = bpf_map_lookup_elem(&counters, &verdict);
	if (frames)
		(*frames)++;
	if (verdict == PASSED)
		return XDP_PASS;
	if (verdict != KEPT)
		return XDP_DROP;
	/* Linux TCP takes nothing that came in a broadcast or multicast frame (net/ipv4/tcp_ipv4.c, tcp_v4_rcv: pkt_type). */
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > end)
		return XDP_PASS;
#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		eth->h_dest[i] = own_mac[i];
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
