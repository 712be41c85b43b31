"""Which ports workers can have: those that nobody listens on, and that no other launch has claimed.

An engine may load for minutes before it binds its port. Two launches that only looked would give the same port to two
engines, and the slower one would find it taken after all that time. So a launch claims its ports beforehand, by names
in the abstract socket namespace: the kernel knows them per network, as it does ports, and frees them with the process.
"""

from __future__ import annotations

import socket
from pathlib import Path

from launcher.plan import EPHEMERAL


class Ports:
    """The ports that this launch has claimed."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._claims: dict[int, socket.socket] = {}

    def free(self, port: int) -> bool:
        """Whether a worker can have `port`: it is then claimed, and stays so until this is closed."""
        return nobody_listens(port, self._host) and self._claim(port)

    def close(self) -> None:
        for claim in self._claims.values():
            claim.close()
        self._claims.clear()

    def _claim(self, port: int) -> bool:
        if port in self._claims:
            return True
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0llm-launch/{port}")
        except OSError:
            claim.close()
            return False
        self._claims[port] = claim
        return True


def nobody_listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether an engine could listen on `port` now. Connections that are only being forgotten do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def ephemeral() -> tuple[int, int]:
    """The first and last port that the kernel gives to outgoing connections."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return EPHEMERAL
    return int(low), int(high)
