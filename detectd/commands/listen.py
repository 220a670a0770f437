"""Follow a daemon's events: what arrives on PUB, and what was missed."""

import json
import time
from collections.abc import Iterator
from typing import Any

import zmq

from detectd.publish.message import HEARTBEAT_TOPIC
from detectd.sockets import Socket, connect

QUIET_S = 3.0
"""Without a heartbeat for so long, the daemon is not there."""


class Listener:
    """A subscriber that knows when it has missed something.

    Parameters
    ----------
    topic : str
        Prefix of the topics wanted, such as ``event/yard``.
    """

    def __init__(self, endpoint: str, topic: str = "event/") -> None:
        self._socket: Socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        for prefix in (topic, HEARTBEAT_TOPIC):
            self._socket.subscribe(prefix)
        self._topic = topic
        self._run_id = ""
        self._told = False  # by a heartbeat, where the topics stand
        self._seq: dict[str, int] = {}
        self._heard_s = time.monotonic()
        connect(self._socket, endpoint, "--from")

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def follow(self) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
        """Yield ``(event, None)`` for each event and ``(None, notice)`` for what a person should know."""
        present: bool | None = None
        while True:
            if not self._socket.poll(500):
                if present is not False and time.monotonic() - self._heard_s > QUIET_S:
                    present = False
                    yield None, "nothing heard from the daemon; waiting for it"
                continue
            topic, payload = self._socket.recv_multipart()[:2]
            self._heard_s = time.monotonic()
            if not present:
                present = True
                yield None, "connected"
            message = json.loads(payload)
            if topic.decode() == HEARTBEAT_TOPIC:
                yield from ((None, notice) for notice in self._missed(message))
                continue
            yield from ((None, notice) for notice in self._check(topic.decode(), message))
            yield message, None

    def _check(self, topic: str, message: dict[str, Any]) -> list[str]:
        """Follow the numbers on a topic; before the first heartbeat, a high number is no loss, only a late start."""
        self._meet(message["run_id"])
        missed = message["seq"] - self._seq.get(topic, 0 if self._told else message["seq"] - 1) - 1
        self._seq[topic] = message["seq"]
        return [f"missed {missed} messages on {topic}"] if missed > 0 else []

    def _missed(self, heartbeat: dict[str, Any]) -> list[str]:
        """Compare with the numbers of a heartbeat, which shows the loss of a topic's last messages as well."""
        self._meet(heartbeat["run_id"])
        notices = []
        for topic, seq in heartbeat["seq"].items():
            if not topic.startswith(self._topic):
                continue
            known = self._seq.get(topic, 0 if self._told else seq)
            if seq > known:
                notices.append(f"missed {seq - known} messages on {topic}")
            self._seq[topic] = max(seq, known)
        self._told = True
        return notices

    def _meet(self, run_id: str) -> None:
        if run_id != self._run_id:
            self._run_id = run_id
            self._seq.clear()


def event_text(event: dict[str, Any]) -> str:
    """An event for a person's eyes, one line."""
    lines = ", ".join(f"{line['frequency_hz']:.1f} Hz (+{line['snr_db']:.0f} dB)" for line in event["lines"][:5])
    when = event["end_time"] if event["state"] == "end" else event["start_time"]
    seconds = f" after {event['duration_s']:.2f} s ({event['end_reason']})" if event["state"] == "end" else ""
    head = f"{when[:23]}Z {event['state']:<6} {event['stream']} / {event['detector']}: {event['label']}{seconds}"
    return f"{head}  score {event['score']:.2f} peak {event['peak_score']:.2f}" + (f"  lines {lines}" if lines else "")
