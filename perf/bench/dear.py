#!/usr/bin/env python3
"""usage: dear.py INTERFACE MAC ADDRESS RATE SECONDS

Sends the frame that is dearest to read to an IPv6 cluster address, RATE times a second, or, with 0, as fast as it can: behind two VLAN tags, 8 extension headers and an
ICMPv6 error about a fragment. Prints how many were sent, as JSON. The same frame as in perf/bench/common/odd.rs.
"""
import json
import socket
import sys
import time

UDP, FRAGMENT, OPTIONS, ICMP = 17, 44, 60, 58


def chained(headers, protocol, payload):
    for _ in range(headers):
        protocol, payload = OPTIONS, bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) + payload
    return protocol, payload


def packet(source, destination, protocol, payload):
    return bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([protocol, 64]) + source + destination + payload


def main():
    interface, mac, address, rate, seconds = sys.argv[1:]
    cluster, client = (socket.inet_pton(socket.AF_INET6, text) for text in (address, "2001:2::7"))
    answer = (53).to_bytes(2, "big") + (40000).to_bytes(2, "big") + bytes([0, 8, 0, 0])
    quoted = packet(cluster, client, *chained(7, FRAGMENT, bytes([UDP, 0, 0, 1, 0, 0, 0, 7]) + answer))
    inner = packet(client, cluster, *chained(8, ICMP, bytes([2, 0, 0, 0, 0, 0, 5, 0]) + quoted))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((interface, 0))
        own = link.getsockname()[4]
        tags = bytes([0x88, 0xA8, 0, 100, 0x81, 0, 0, 100])
        frame = bytes.fromhex(mac.replace(":", "")) + own + tags + bytes([0x86, 0xDD]) + inner
        begin, sent, rate = time.monotonic(), 0, int(rate) or 10**9
        while (passed := time.monotonic() - begin) < float(seconds):
            due = min(int(passed * rate) - sent, 256)
            for _ in range(due):
                try:
                    link.send(frame)
                except OSError:  # the queue is full
                    continue
            sent += max(due, 0)
            if due <= 0:
                time.sleep(0.0002)
    print(json.dumps({"sent": sent, "seconds": float(seconds)}))


main()
