"""Events journaled and published: how many a second in a burst, and how long one takes to its subscriber.

The rival does the obvious with the same messages, disk, database settings and socket: a transaction for each event,
then the PUB socket. Both promise that an event is on disk before it is sent. A third way sends them and writes nothing:
what latency it has is not the journal's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sqlite3
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import zmq

from detectd.config.config import JournalConfig
from detectd.dsp.lines import Line
from detectd.engine.event import Event
from detectd.engine.tracker import EndReason, State
from detectd.publish.journal import Journal
from detectd.publish.message import topic_of
from detectd.publish.publisher import Publisher
from detectd.publish.record import record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from detectd.sockets import Context

N_STREAMS = 50
LINES = tuple(Line(100.0 + number, 20.0, 0.5) for number in range(10))
PACE_S = 0.02
SCHEMA = "CREATE TABLE messages (id INTEGER PRIMARY KEY, published_ns INTEGER, topic TEXT, body TEXT)"


def events(count: int) -> list[Event]:
    return [
        Event(
            event_id=str(uuid4()),
            state=State.END,
            stream=f"hydrophone-{number % N_STREAMS}",
            detector="demo",
            kind="binary",
            bundle="demo@0123456789ab",
            threshold=1.0,
            label="pump",
            start_sample=8000,
            end_sample=24_000,
            sample_rate_hz=8000,
            start_utc_ns=10**18,
            end_utc_ns=10**18 + 2 * 10**9,
            heard_sample=24_000,
            heard_utc_ns=10**18 + 2 * 10**9,
            score=2.5,
            peak_score=3.5,
            lines=LINES,
            gap_samples=0,
            end_reason=EndReason.QUIET,
        )
        for number in range(count)
    ]


@contextlib.contextmanager
def ours(context: Context, folder: Path) -> Iterator[tuple[str, Callable[[Event], None]]]:
    journal = Journal(folder, "run", JournalConfig(max_age_days=30, max_size_mb=512))
    publisher = Publisher(context, "tcp://127.0.0.1:0", journal, dict, lambda _event: None)
    publisher.start()
    try:
        yield publisher.endpoint, publisher.put
    finally:
        publisher.stop()
        journal.close()


@contextlib.contextmanager
def obvious(context: Context, folder: Path, *, writes: bool = True) -> Iterator[tuple[str, Callable[[Event], None]]]:
    socket = context.socket(zmq.PUB)
    socket.bind("tcp://127.0.0.1:0")
    database = sqlite3.connect(folder / "obvious.sqlite3", isolation_level=None)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", SCHEMA):
        database.execute(statement)
    seq = 0

    def put(event: Event) -> None:
        nonlocal seq
        seq += 1
        record = record_of(event, run_id="run", seq=seq, journaled=writes)
        if writes:
            row = (time.time_ns(), record.topic, record.body)
            database.execute("INSERT INTO messages (published_ns, topic, body) VALUES (?, ?, ?)", row)
        socket.send_multipart([record.topic.encode(), record.body.encode()])

    try:
        yield socket.getsockopt_string(zmq.LAST_ENDPOINT), put
    finally:
        database.close()
        socket.close(linger=0)


class Subscriber:
    """Notes when each event arrives."""

    def __init__(self, context: Context, endpoint: str, count: int) -> None:
        self.arrived_s: list[float] = []
        self._count = count
        self._socket = context.socket(zmq.SUB)
        self._socket.rcvhwm = 0
        self._socket.connect(endpoint)
        self._socket.subscribe("event/")
        time.sleep(0.3)  # until the subscription is in force
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def finish(self) -> list[float]:
        self._thread.join()
        self._socket.close(linger=0)
        return self.arrived_s

    def _receive(self) -> None:
        while len(self.arrived_s) < self._count:
            self._socket.recv_multipart()
            self.arrived_s.append(time.perf_counter())


def trial(way: Callable[..., contextlib.AbstractContextManager], count: int, pace_s: float) -> dict[str, float]:
    """All events through one way; a pace of 0 is a burst."""
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context, way(context, Path(folder)) as (where, put):
        subscriber = Subscriber(context, where, count)
        made = events(count)
        assert topic_of(made[0].stream, made[0].detector) == "event/hydrophone-0/demo"
        put_s = []
        for event in made:
            put_s.append(time.perf_counter())
            put(event)
            time.sleep(pace_s)
        arrived_s = subscriber.finish()
        latency_ms = 1e3 * (np.array(arrived_s) - np.array(put_s))
    p50, p99 = np.percentile(latency_ms, [50, 99]).tolist()
    return {"events_a_second": count / (arrived_s[-1] - put_s[0]), "p50_ms": p50, "p99_ms": p99}


def spread(trials: list[dict[str, float]], key: str) -> dict[str, float]:
    values = [one[key] for one in trials]
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def run(n_burst: int, n_paced: int, n_repeats: int) -> dict[str, object]:
    def without(context: Context, folder: Path) -> contextlib.AbstractContextManager:
        return obvious(context, folder, writes=False)

    ways = {"detectd": ours, "a transaction an event": obvious, "without a journal": without}
    burst: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    paced: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(n_repeats):
        for name, way in ways.items():
            burst[name].append(trial(way, n_burst, 0.0))
            paced[name].append(trial(way, n_paced, PACE_S))
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        "n_burst": n_burst,
        "n_paced": n_paced,
        "pace_s": PACE_S,
        "n_repeats": n_repeats,
        "ways": {
            name: {
                "events_a_second": spread(burst[name], "events_a_second"),
                "p50_ms": spread(paced[name], "p50_ms"),
                "p99_ms": spread(paced[name], "p99_ms"),
            }
            for name in ways
        },
    }


def table(result: dict[str, object]) -> str:
    ways = result["ways"]
    assert isinstance(ways, dict)
    lines = [f"{'':24}{'events/s in a burst':>28}{'to subscriber, p50 ms':>26}{'p99 ms':>22}"]
    for name, figures in ways.items():
        burst, p50, p99 = (figures[key] for key in ("events_a_second", "p50_ms", "p99_ms"))
        cells = [f"{burst['median']:,.0f} ({burst['least']:,.0f}-{burst['most']:,.0f})"]
        cells += [f"{one['median']:.1f} ({one['least']:.1f}-{one['most']:.1f})" for one in (p50, p99)]
        lines.append(f"{name:24}{cells[0]:>28}{cells[1]:>26}{cells[2]:>22}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Events journaled and published, against the obvious way.")
    parser.add_argument("--quick", action="store_true", help="one repeat, no file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    result = run(2_000, 100, 1) if options.quick else run(10_000, 300, 3)
    if not options.quick:
        target = Path(__file__).parent / "results" / "journal.json"
        target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
