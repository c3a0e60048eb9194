"""Ports for the processes that tests start."""

from __future__ import annotations

import random
import socket

# Below the range from which systems take the local ports of outgoing connections: a port from
# there can be taken by any connection between the time it was found free and its use.
_PORTS = range(12_000, 32_000)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("100 ports in a row are taken")
