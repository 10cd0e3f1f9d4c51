/* Every function of the shim, once as it is used and once at its limits, for scripts/sanitize.sh: frames go round a net_ring. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/port/dpdk/shim.h"

#define BURST 64

#define CHECK(holds)                                                                    \
    do {                                                                                \
        if (!(holds)) {                                                                 \
            fprintf(stderr, "%s:%d: it does not hold: %s\n", __FILE__, __LINE__, #holds); \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)

static size_t said;
static char last[4096];

static void sink(uint32_t level, const char *text, size_t length)
{
    (void)level;
    CHECK(length < sizeof last);
    memcpy(last, text, length);
    last[length] = 0;
    said++;
}

static void start(uint16_t port, struct rte_mempool *pool)
{
    struct rte_eth_conf none = {0};

    CHECK(rte_eth_dev_configure(port, 1, 1, &none) == 0);
    CHECK(rte_eth_rx_queue_setup(port, 0, 512, 0, NULL, pool) == 0);
    CHECK(rte_eth_tx_queue_setup(port, 0, 512, 0, NULL) == 0);
    CHECK(rte_eth_dev_start(port) == 0);
}

static void frames_go_round(uint16_t port, struct rte_mempool *pool)
{
    struct rte_mbuf *frames[BURST], *back[BURST];
    uint16_t count, at;

    for (at = 0; at < BURST; at++) {
        frames[at] = oneip_alloc(pool);
        CHECK(frames[at] != NULL);
        char *bytes = rte_pktmbuf_append(frames[at], 60);
        CHECK(bytes != NULL);
        memset(bytes, at, 60);
    }
    CHECK(oneip_tx_burst(port, 0, frames, BURST) == BURST);
    count = oneip_rx_burst(port, 0, back, BURST);
    CHECK(count == BURST);
    for (at = 0; at < count; at++) {
        const unsigned char *bytes = rte_pktmbuf_mtod(back[at], const unsigned char *);
        CHECK(rte_pktmbuf_pkt_len(back[at]) == 60 && bytes[0] == at && bytes[59] == at);
    }
    CHECK(oneip_rx_burst(port, 0, back + 0, 0) == 0);
    rte_pktmbuf_free_bulk(back, count);
    CHECK(oneip_rx_burst(port, 0, back, BURST) == 0);
}

static void what_there_is_no_room_for_is_refused(struct rte_mempool *pool)
{
    static struct rte_mbuf *all[4096];
    unsigned taken = 0;
    struct rte_mbuf *frame;

    while ((frame = oneip_alloc(pool)) != NULL) {
        CHECK(taken < RTE_DIM(all));
        all[taken++] = frame;
    }
    CHECK(taken > 0 && rte_mempool_avail_count(pool) == 0);
    rte_pktmbuf_free_bulk(all, taken);
}

int main(int argc, char **argv)
{
    uint16_t port;

    CHECK(oneip_log_to(sink) == 0);
    CHECK(rte_eal_init(argc, argv) >= 0);
    CHECK(oneip_is_known());
    CHECK(oneip_tsc() != 0);
    rte_log(RTE_LOG_ERR, RTE_LOGTYPE_EAL, "a message of %d bytes\n", 7);
    CHECK(said > 0 && strcmp(last, "a message of 7 bytes\n") == 0);
    rte_errno = 42;
    CHECK(oneip_errno() == 42);
    struct rte_mempool *pool = rte_pktmbuf_pool_create("frames", 1023, 0, 0, 2176, 0);
    CHECK(pool != NULL);
    CHECK(rte_eth_dev_get_port_by_name("net_ring0", &port) == 0);
    start(port, pool);
    for (int round = 0; round < 100; round++)
        frames_go_round(port, pool);
    CHECK(rte_eth_dev_stop(port) == 0);
    what_there_is_no_room_for_is_refused(pool);
    CHECK(rte_eth_dev_close(port) == 0);
    rte_mempool_free(pool);
    puts("the shim: every function holds");
    return 0;
}
