/* What of DPDK is inline or a macro, as functions; and all that the bindings are made of. */
#pragma once

#include <stddef.h>
#include <stdint.h>

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

uint16_t oneip_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);
uint16_t oneip_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);

/* A fresh frame; NULL when none is left. */
struct rte_mbuf *oneip_alloc(struct rte_mempool *pool);

/* The error of the calling thread's last failed call. */
int oneip_errno(void);

/* The time stamp counter. */
uint64_t oneip_tsc(void);


/* From now on each message of DPDK's goes to `sink`, with its level (RTE_LOG_*). 0, or an error number. */
int oneip_log_to(void (*sink)(uint32_t level, const char *text, size_t length));
