"""One run: a fresh daemon under a load in real time, what it cost, and whether it kept up with its books exact."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zmq
from whole_path.load import RAMP_S, Offer, Sent, offer, stream_id
from whole_path.served import Daemon, Metrics, core_busy_s, parsed
from whole_path.tape import BLOCK, BLOCK_S, STREAMS_A_MESSAGE

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

LATENCY_LIMIT_S = 0.5
PACE_LIMIT_S = 0.1
"""A generator later than this, in 1 % of its messages, did not offer what it should have."""

SETTLE_S = 5.0
"""After the ramp: the first window of every stream, and memory that is touched for the first time."""

SCRAPE_S = 5.0
_SUM = "detectd_audio_{}_total"


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    bundle: Path
    window_s: float
    tape: Path
    daemon_core: int
    load_core: int


@dataclass
class Outcome:
    """What came of a run; `faults` says why it does not count as kept up."""

    n_streams: int
    seconds: float
    faults: list[str] = field(default_factory=list)
    cpu_us_per_stream_s: float = 0.0
    core_used: float = 0.0
    core_used_by_others: float = 0.0
    rss_kib_per_stream: float = 0.0
    rss_mib: float = 0.0
    windows_per_stream_s: float = 0.0
    events_per_s: float = 0.0
    detection_latency_s: dict[str, float] = field(default_factory=dict)
    event_latency_s: list[float] = field(default_factory=list, repr=False)
    generator_late_p99_s: float = 0.0
    books: dict[str, int] = field(default_factory=dict)

    @property
    def kept_up(self) -> bool:
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "event_latency_s": percentiles(self.event_latency_s), "kept_up": self.kept_up}


def run_trial(bench: Bench, n_streams: int, seconds: float) -> Outcome:
    """Offer `n_streams` (whole messages of them) and watch for `seconds` once all of them run."""
    n_groups = -(-n_streams // STREAMS_A_MESSAGE)
    outcome = Outcome(n_groups * STREAMS_A_MESSAGE, seconds)
    with tempfile.TemporaryDirectory(prefix="detectd-bench-") as folder:
        daemon = Daemon(bench.bundle, Path(folder), bench.daemon_core)
        heard = _Subscriber(daemon.events)
        try:
            _measure(bench, daemon, heard, n_groups, outcome)
        finally:
            heard.stop()
            daemon.stop()
    return outcome


def percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"n": 0}
    p50, p99 = np.percentile(values, [50, 99])
    return {"n": len(values), "p50": float(p50), "p99": float(p99), "max": max(values)}


def _measure(bench: Bench, daemon: Daemon, heard: _Subscriber, n_groups: int, outcome: Outcome) -> None:
    rss_before = daemon.rss_bytes()
    lead_s = RAMP_S + SETTLE_S
    n_messages = round((lead_s + outcome.seconds) / BLOCK_S) + 1
    what = Offer(daemon.ingest, bench.tape, n_groups, n_messages, bench.load_core)
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    generator = context.Process(target=offer, args=(what, theirs))
    generator.start()
    theirs.close()
    from_s = mine.recv() + lead_s
    _sleep_until(from_s)
    pages = [daemon.page()]
    cpu_s, busy_s, since_s = daemon.cpu_s(), core_busy_s(bench.daemon_core), time.monotonic()
    until_s = from_s + outcome.seconds
    while (next_s := time.monotonic() + SCRAPE_S) < until_s:
        _sleep_until(next_s)
        pages.append(daemon.page())
    _sleep_until(until_s)
    cpu_s, busy_s = daemon.cpu_s() - cpu_s, core_busy_s(bench.daemon_core) - busy_s
    took_s = time.monotonic() - since_s
    outcome.rss_mib = daemon.rss_bytes() / 2**20
    outcome.rss_kib_per_stream = (daemon.rss_bytes() - rss_before) / 1024 / outcome.n_streams
    pages.append(daemon.page())
    sent = _books_of(mine, generator)
    outcome.cpu_us_per_stream_s = 1e6 * cpu_s / took_s / outcome.n_streams
    outcome.core_used, outcome.core_used_by_others = cpu_s / took_s, max(0.0, (busy_s - cpu_s) / took_s)
    metrics = [parsed(page) for page in pages]
    _judge_pace(sent, outcome)
    _judge_metrics(metrics, outcome)
    _judge_books(daemon, sent, outcome)
    outcome.event_latency_s = _event_latencies(heard.events(), sent, bench.window_s, from_s, until_s)
    if not outcome.event_latency_s:
        outcome.faults.append("no event began")
    outcome.events_per_s = len([at_s for at_s, _ in heard.events() if from_s <= at_s < until_s]) / outcome.seconds


def _books_of(pipe: Connection, generator: multiprocessing.process.BaseProcess) -> Sent:
    sent: Sent = pipe.recv()
    generator.join(20)
    if generator.exitcode is None:
        generator.kill()
    return sent


def _judge_pace(sent: Sent, outcome: Outcome) -> None:
    outcome.generator_late_p99_s = float(np.percentile(sent.late_s, 99))
    if np.isnan(sent.sent_s).any():
        outcome.faults.append("the load gave up: its messages were not taken")
    elif sent.blocked:
        outcome.faults.append(f"{sent.blocked} messages had to wait for the daemon to read")
    elif outcome.generator_late_p99_s > PACE_LIMIT_S:
        outcome.faults.append(f"the load itself was {outcome.generator_late_p99_s:.2f} s late")


def _judge_metrics(metrics: list[Metrics], outcome: Outcome) -> None:
    first, last = metrics[0], metrics[-1]
    windows = last["detectd_windows_total"][("bench",)] - first["detectd_windows_total"][("bench",)]
    outcome.windows_per_stream_s = windows / outcome.seconds / outcome.n_streams
    name = "detectd_detection_latency_seconds_bucket"
    counts = {float(le): value - first[name][(le,)] for (le,), value in last[name].items()}
    outcome.detection_latency_s = {"p50": _bucket(counts, 0.5), "p99": _bucket(counts, 0.99)}
    if outcome.detection_latency_s["p99"] > LATENCY_LIMIT_S:
        outcome.faults.append(f"detection latency: p99 above {LATENCY_LIMIT_S} s")
    if shed := sum(last.get("detectd_windows_shed_total", {}).values()):
        outcome.faults.append(f"{shed:.0f} windows shed")
    for page in metrics:
        for stream, accepted in page["detectd_audio_samples_total"].items():
            parts = (
                "detectd_audio_analysed_samples_total",
                "detectd_audio_pending_samples",
                _SUM.format("overrun_samples"),
            )
            if accepted != sum(page[part][stream] for part in parts):
                outcome.faults.append(f"books of {stream} do not balance within a page")


def _bucket(counts: dict[float, float], share: float) -> float:
    """Upper bound of the bucket that holds a quantile."""
    total = counts[float("inf")]
    return min((le for le, count in counts.items() if count >= share * total), default=float("inf"))


def _judge_books(daemon: Daemon, sent: Sent, outcome: Outcome) -> None:
    """Offered by the sender's count = accepted + gap + refused, of every stream, once all has been read."""
    offered = sent.offered_samples()
    until_s = time.monotonic() + 10
    while True:
        page = parsed(daemon.page())
        accepted = {stream: int(value) for (stream,), value in page["detectd_audio_samples_total"].items()}
        pending = sum(page["detectd_audio_pending_samples"].values())
        if (sum(accepted.values()) >= sum(offered.values()) and not pending) or time.monotonic() > until_s:
            break
        time.sleep(0.5)
    gap = {stream: int(value) for (stream,), value in page[_SUM.format("gap_samples")].items()}
    refused: dict[str, int] = {}
    for (stream, _), value in page.get(_SUM.format("rejected_samples"), {}).items():
        refused[stream] = refused.get(stream, 0) + int(value)
    wrong = [s for s, n in offered.items() if n != accepted.get(s, 0) + gap.get(s, 0) + refused.get(s, 0)]
    overrun = int(sum(page[_SUM.format("overrun_samples")].values()))
    outcome.books = {
        "offered": sum(offered.values()),
        "accepted": sum(accepted.values()),
        "gap": sum(gap.values()),
        "refused": sum(refused.values()),
        "overrun": overrun,
        "streams_wrong": len(wrong),
    }
    if wrong:
        outcome.faults.append(f"offered is not accepted + gap + refused for {len(wrong)} streams, {wrong[0]} first")
    if overrun:
        outcome.faults.append(f"{overrun} samples overrun")


def _event_latencies(
    events: list[tuple[float, bytes]], sent: Sent, window_s: float, from_s: float, until_s: float
) -> list[float]:
    """From the last sample of an event's first window going to ZeroMQ to its start at the subscriber."""
    groups = {stream_id(g, p): g for g in range(len(sent.sent_s)) for p in range(STREAMS_A_MESSAGE)}
    latencies = []
    for at_s, body in events:
        event = json.loads(body)
        if event["state"] != "start" or not from_s <= at_s < until_s:
            continue
        last_sample = event["start_sample"] + round(event["sample_rate_hz"] * window_s) - 1
        latencies.append(at_s - float(sent.sent_s[groups[event["stream"]], last_sample // BLOCK]))
    return latencies


class _Subscriber:
    """Hears every event and heartbeat; notes when each came."""

    def __init__(self, endpoint: str) -> None:
        self._events: list[tuple[float, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(endpoint,))
        self._thread.start()

    def events(self) -> list[tuple[float, bytes]]:
        return list(self._events)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self, endpoint: str) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.connect(endpoint)
            socket.subscribe(b"")
            while not self._stop.is_set():
                if socket.poll(100):
                    topic, body = socket.recv_multipart()
                    if topic != b"heartbeat":
                        self._events.append((time.monotonic(), body))


def _sleep_until(monotonic_s: float) -> None:
    time.sleep(max(0.0, monotonic_s - time.monotonic()))
