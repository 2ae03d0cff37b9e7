"""A link whose frames are late, for kernels without netem (tests/hosts.sh starts it).

Makes two network interfaces, NAME and PORT, in the namespace that it runs in. Frames sent through NAME
leave through PORT after MICROSECONDS; those that come in through PORT are not held up. Says "ready" once both
are there, and forwards until it is ended. Frames keep their offloading (virtio's header), so that
large ones stay whole.

Usage: python3 tests/delay.py NAME PORT MICROSECONDS
"""

import collections
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TAP, NO_PACKET_INFORMATION, VIRTIO_HEADER = 0x0002, 0x1000, 0x4000
CHECKSUMS, IPV4_SEGMENTS = 0x01, 0x02
LARGEST = 1 << 17


def interface(name):
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = TAP | NO_PACKET_INFORMATION | VIRTIO_HEADER
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(file, TUNSETOFFLOAD, CHECKSUMS | IPV4_SEGMENTS)
    return file


def read(file):
    """All frames that are there."""
    while True:
        try:
            yield os.read(file, LARGEST)
        except OSError:  # none, or the interface is down
            return


def write(file, frame):
    try:
        os.write(file, frame)
    except OSError:  # the interface is down: the frame is lost, as on a cut link
        pass


def main():
    name, port, delay = sys.argv[1], sys.argv[2], float(sys.argv[3]) * 1e-6
    host, switch = interface(name), interface(port)
    print("ready", flush=True)
    late = collections.deque()
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else None
        ready, _, _ = select.select([host, switch], [], [], wait)
        if switch in ready:
            for frame in read(switch):
                write(host, frame)
        if host in ready:
            due = time.monotonic() + delay
            late.extend((due, frame) for frame in read(host))
        while late and late[0][0] <= time.monotonic():
            write(switch, late.popleft()[1])


main()
