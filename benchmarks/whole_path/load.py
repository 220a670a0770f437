"""The load: a process that offers thousands of streams in real time and keeps the sender's books."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zmq
from whole_path.tape import BLOCK, BLOCK_S, STREAMS_A_MESSAGE

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

CONNECTIONS = 16
RAMP_S = 2.0
"""Groups of streams begin one after another within this time, and stay out of step for good."""

GIVE_UP_S = 3.0
_QUEUE_S = 0.5
"""What ZeroMQ may hold for us; with more waiting, the daemon has fallen behind and so do we."""


@dataclass(frozen=True)
class Offer:
    """What to offer: whole groups of `STREAMS_A_MESSAGE` streams, `n_messages` each."""

    endpoint: str
    tape: Path
    n_groups: int
    n_messages: int
    core: int


@dataclass(frozen=True)
class Sent:
    """The sender's books.

    Attributes
    ----------
    sent_s : array, shape (n_groups, n_messages)
        Monotonic time at which each message went to ZeroMQ; NaN for those that did not.
    late_s : array, shape (n_sent,)
        How long after its time each went.
    blocked : int
        Messages that ZeroMQ did not take at once: the daemon did not read.
    cpu_s : float
    """

    sent_s: np.ndarray
    late_s: np.ndarray
    blocked: int
    cpu_s: float

    def offered_samples(self) -> dict[str, int]:
        """By stream."""
        counts = np.isfinite(self.sent_s).sum(axis=1) * BLOCK
        return {
            stream_id(group, place): int(count)
            for group, count in enumerate(counts)
            for place in range(STREAMS_A_MESSAGE)
        }


def stream_id(group: int, place: int) -> str:
    return f"load-{group:04d}-{place:02d}"


def offer(what: Offer, pipe: Connection) -> None:
    """Send all of it, paced; tells when it began and in the end its books. The target of a process."""
    os.sched_setaffinity(0, {what.core})
    tape = np.load(what.tape)
    ids = [np.array([stream_id(g, p) for p in range(STREAMS_A_MESSAGE)], "S32") for g in range(what.n_groups)]
    # Every group hears the tape from another place on, so that not all events begin together.
    places = (np.arange(what.n_groups) * 37) % len(tape)
    due_s = RAMP_S * np.arange(what.n_groups)[:, None] / what.n_groups + BLOCK_S * np.arange(what.n_messages)
    order = np.argsort(due_s, axis=None, kind="stable")
    sent_s = np.full(due_s.shape, np.nan)
    late_s: list[float] = []
    blocked = 0
    epoch = int.from_bytes(os.urandom(7), "little")
    with zmq.Context() as context:
        sockets = [_socket(context, what) for _ in range(min(CONNECTIONS, what.n_groups))]
        began_s, began_ns = time.monotonic() + 0.2, time.time_ns() + 200_000_000
        pipe.send(began_s)
        for flat in order.tolist():
            group, number = divmod(flat, what.n_messages)
            message = tape[(places[group] + number) % len(tape)]  # a view: the header fields are set in place
            message["stream_id"], message["epoch"], message["seq"] = ids[group], epoch, number
            message["first_sample"] = number * BLOCK
            message["t_first_utc_ns"] = began_ns + int(1e9 * (due_s[group, number] - BLOCK_S))
            at_s = began_s + due_s[group, number]
            if (wait_s := at_s - time.monotonic()) > 0:
                time.sleep(wait_s)
            socket = sockets[group % len(sockets)]
            try:
                socket.send(message.view(np.uint8), zmq.NOBLOCK)
            except zmq.Again:
                blocked += 1
                if not socket.poll(1000 * GIVE_UP_S, zmq.POLLOUT):
                    break
                socket.send(message.view(np.uint8))
            sent_s[group, number] = now_s = time.monotonic()
            late_s.append(now_s - at_s)
            if now_s - at_s > GIVE_UP_S:
                break
        for socket in sockets:
            socket.close(linger=5000)
    pipe.send(Sent(sent_s, np.array(late_s), blocked, time.process_time()))


def _socket(context: zmq.Context[zmq.Socket[bytes]], what: Offer) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(zmq.PUSH)
    socket.set_hwm(max(4, int(_QUEUE_S / BLOCK_S * what.n_groups / CONNECTIONS)))
    socket.connect(what.endpoint)
    return socket
