"""Running out of sockets: how many clients the limit on open files allows, and whether a failure comes of it."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
import sys

# Descriptors that are no request's: 14 at the start, 2 for each engine launched here, 1 for each probe under way.
RESERVED = 128
# No descriptor (here, in the whole system), no memory, no local port left.
_OURS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))


def raise_limit() -> int:
    """Use all open files that the hard limit allows; returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def most_clients(limit: int) -> int:
    """How many clients may be connected when so many files may be open: each may need a connection to a worker, too."""
    return max(limit // 4, (limit - RESERVED) // 2)


def keep_watch(watched: socket.socket, seconds: int) -> None:
    """Have the kernel find out when the other side has been gone without a word for so long: no reset, no answer.

    The sockets that a listener accepts inherit this.
    """
    watched.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", seconds // 2),
        ("TCP_KEEPINTVL", seconds // 12),
        ("TCP_KEEPCNT", 6),
    ):
        if hasattr(socket, option):
            watched.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def give_up(watched: socket.socket, seconds: int) -> None:
    """Have the kernel end a connection on which what was sent is not taken for so long."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        watched.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)


def exhausted(error: OSError) -> bool:
    """Whether a connection could not be made for want of something here, which is not the other side's fault.

    A name that cannot be looked up for want of a descriptor is reported as unknown, so one is tried for.
    """
    if error.errno in _OURS:
        return True
    try:
        socket.socket().close()
    except OSError:
        return True
    return False
