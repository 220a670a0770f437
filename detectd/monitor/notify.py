"""Tells the service manager how the service is doing: the protocol of sd_notify(3), spoken by hand.

A datagram of `NAME=value` lines to the Unix socket that $NOTIFY_SOCKET names. Without one there is nobody to tell and
nothing is done. Whatever becomes of the socket, the caller is neither held up nor hurt.
"""

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

_MOST_WAITING = 16
"""Messages kept while the manager takes none: states are few, and of STATUS only the newest counts."""

_MAX_STATUS_BYTES = 1024


class Notifier:
    """The service's side of the socket.

    Messages that say a state are kept while the manager's queue is full or its socket is away, and go out in order
    with the next one or with `flush`; a beat of the watchdog is of its moment only and is never kept.

    Parameters
    ----------
    address : str
        A path, or ``@`` and an abstract name; empty where there is no manager.
    watchdog_s : float, optional
        Time after which the manager takes a service without a beat for dead; None where it does not watch.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s if address else None
        self._waiting: list[bytes] = []

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> "Notifier":
        """Take the manager's variables out of `environ`, so that no child believes they are meant for it."""
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        if not address.startswith(("/", "@")):
            return cls()
        watched = watchdog_us.isdecimal() and int(watchdog_us) > 0 and pid in {"", str(os.getpid())}
        return cls(address, int(watchdog_us) / 1e6 if watched else None)

    @property
    def listened_to(self) -> bool:
        """Whether there is a service manager to tell."""
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """Start-up, or a reload, is over."""
        self._say(f"READY=1\nSTATUS={_one_line(status)}" if status else "READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. Says when, which Type=notify-reload wants to know."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The service shuts down."""
        self._say("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for people, as `systemctl status` shows it."""
        self._waiting = [message for message in self._waiting if not message.startswith(b"STATUS=")]
        self._say(f"STATUS={_one_line(text)}")

    def watchdog(self) -> None:
        """The service lives."""
        if self.flush():
            self._send(b"WATCHDOG=1")

    def flush(self) -> bool:
        """Send what is waiting; returns whether nothing waits any more."""
        while self._waiting and self._send(self._waiting[0]):
            del self._waiting[0]
        return not self._waiting

    def _say(self, message: str) -> None:
        if self._address:
            self._waiting = [*self._waiting, message.encode()][-_MOST_WAITING:]
            self.flush()

    def _send(self, message: bytes) -> bool:
        if not self._address:
            return False
        # A full queue is EAGAIN, a socket that is away ENOENT or ECONNREFUSED: all of them may be over next time.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out,
        ):
            out.sendto(message, self._address)
            return True
        return False


def _one_line(text: str) -> str:
    r"""A value that cannot be taken for another line of the message, and fits.

    >>> _one_line("3 streams\nWATCHDOG=trigger")
    '3 streams WATCHDOG=trigger'
    """
    return " ".join(text.split()).encode()[:_MAX_STATUS_BYTES].decode(errors="ignore")
