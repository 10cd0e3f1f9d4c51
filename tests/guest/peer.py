"""A peer on the dispatcher's LAN: sends frames, which come as lines of hex, and says, in hex too, which came from a MAC address.

usage: peer.py INTERFACE MAC
"""

import select
import socket
import struct
import sys

ETH_P_ALL, SOL_PACKET, PACKET_AUXDATA, PACKET_IGNORE_OUTGOING, TP_STATUS_VLAN_VALID = 3, 263, 8, 23, 16
interface, source = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))
peer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
peer.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
peer.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
peer.bind((interface, 0))


def listen(seconds):
    """Takes frames until none has come for so long."""
    while select.select([peer], [], [], seconds)[0]:
        frame, extra, _, _ = peer.recvmsg(1 << 16, 64)
        for _, kind, data in extra:
            # The kernel has taken a VLAN tag out of the frame (struct tpacket_auxdata, linux/if_packet.h).
            status, _, _, _, _, tag, protocol = struct.unpack("=IIIHHHH", data[:20])
            if kind == PACKET_AUXDATA and status & TP_STATUS_VLAN_VALID:
                frame = frame[:12] + struct.pack("!HH", protocol, tag) + frame[12:]
        if frame[6:12] == source:
            print(frame.hex(), flush=True)


for line in sys.stdin:
    peer.send(bytes.fromhex(line))
    listen(0.002)
listen(3)
