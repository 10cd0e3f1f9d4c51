/* What of DPDK is inline or a macro, as functions; and all that the bindings are made of. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <rte_alarm.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* What clients are spread over the queues by. */
static const uint64_t ONEIP_RSS = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_SCTP;

/* All frames of a transmit queue are of one pool and have one owner. */
static const uint64_t ONEIP_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;

uint16_t oneip_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);
uint16_t oneip_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);

/* A fresh frame; NULL when none is left. */
struct rte_mbuf *oneip_alloc(struct rte_mempool *pool);

/* The error of the calling thread's last failed call. */
int oneip_errno(void);

/* Whether DPDK knows the calling thread. */
int oneip_is_known(void);

/* The time stamp counter. */
uint64_t oneip_tsc(void);


/* From now on each message of DPDK's goes to `sink`, with its level (RTE_LOG_*). 0, or an error number. */
int oneip_log_to(void (*sink)(uint32_t level, const char *text, size_t length));
