#define _GNU_SOURCE
#include <stdio.h>
#include <errno.h>

#include "shim.h"

uint16_t oneip_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count)
{
    return rte_eth_rx_burst(port, queue, frames, count);
}

uint16_t oneip_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count)
{
    return rte_eth_tx_burst(port, queue, frames, count);
}

struct rte_mbuf *oneip_alloc(struct rte_mempool *pool)
{
    return rte_pktmbuf_alloc(pool);
}

int oneip_errno(void)
{
    return rte_errno;
}

int oneip_is_known(void)
{
    return rte_lcore_id() != LCORE_ID_ANY;
}

uint64_t oneip_tsc(void)
{
    return rte_rdtsc();
}

static void (*log_sink)(uint32_t level, const char *text, size_t length);

static ssize_t write_log(void *unused, const char *text, size_t length)
{
    (void)unused;
    log_sink((uint32_t)rte_log_cur_msg_loglevel(), text, length);
    return (ssize_t)length;
}

int oneip_log_to(void (*sink)(uint32_t level, const char *text, size_t length))
{
    cookie_io_functions_t functions = { .write = write_log };
    FILE *stream = fopencookie(NULL, "w", functions);

    if (stream == NULL)
        return errno;
    log_sink = sink;
    return rte_openlog_stream(stream);
}
