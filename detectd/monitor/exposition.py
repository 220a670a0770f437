"""The page of metrics in Prometheus' text format 0.0.4, per-stream series included.

prometheus_client would build thousands of objects and hold the interpreter for most of a second; this writes lines
from a snapshot and lets other threads in between. Knows neither sockets nor the engine.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client import CollectorRegistry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LINES_PER_HOLD = 500
PAUSE_S = 1e-4  # a sleep of 0 takes the interpreter back before a waiting thread has woken


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """One stream's books at one moment, in samples: accepted = analysed + pending + overrun."""

    id: str
    up: bool
    accepted: int
    analysed: int
    pending: int
    overrun: int
    gap: int
    resyncs: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Samples refused, by reason."""
    last_sample_utc_s: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    """Newest score, by detector."""
    events: Mapping[str, int] = field(default_factory=dict)
    """Events begun, by detector."""
    drift_ppm: float | None = None
    """Of a sound device of the daemon's own, once it is known."""
    recorder_restarts: int | None = None
    """Likewise."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with a series per stream, or per stream and a second label."""

    name: str
    kind: str
    help: str
    label: str | None
    values: Callable[[StreamSnapshot], Mapping[str, float]]
    """Values by second label; by the empty string where there is none."""


FAMILIES: Sequence[Family] = (
    Family("detectd_stream_up", "gauge", "1 while audio arrives.", None, lambda s: {"": s.up}),
    Family("detectd_audio_samples_total", "counter", "Samples accepted.", None, lambda s: {"": s.accepted}),
    Family(
        "detectd_audio_analysed_samples_total",
        "counter",
        "Accepted samples handed to the features.",
        None,
        lambda s: {"": s.analysed},
    ),
    Family(
        "detectd_audio_pending_samples",
        "gauge",
        "Accepted samples not yet handed to the features.",
        None,
        lambda s: {"": s.pending},
    ),
    Family(
        "detectd_audio_overrun_samples_total",
        "counter",
        "Accepted samples dropped because the stream's backlog was full.",
        None,
        lambda s: {"": s.overrun},
    ),
    Family("detectd_audio_gap_samples_total", "counter", "Samples that never arrived.", None, lambda s: {"": s.gap}),
    Family(
        "detectd_audio_rejected_samples_total",
        "counter",
        "Samples refused, by reason.",
        "reason",
        lambda s: s.rejected,
    ),
    Family(
        "detectd_audio_resyncs_total",
        "counter",
        "Times the expected sample index was given up for the sender's.",
        None,
        lambda s: {"": s.resyncs},
    ),
    Family(
        "detectd_audio_last_sample_timestamp_seconds",
        "gauge",
        "Capture time (UTC) of the newest sample.",
        None,
        lambda s: {} if s.last_sample_utc_s is None else {"": s.last_sample_utc_s},
    ),
    Family("detectd_score", "gauge", "Newest score; higher is more like the target.", "detector", lambda s: s.scores),
    Family("detectd_events_total", "counter", "Events begun.", "detector", lambda s: s.events),
    Family(
        "detectd_capture_drift_ppm",
        "gauge",
        "How much faster a sound device's clock is than this machine's, in millionths.",
        None,
        lambda s: {} if s.drift_ppm is None else {"": s.drift_ppm},
    ),
    Family(
        "detectd_capture_restarts_total",
        "counter",
        "Recorders of a sound device that ended and were replaced.",
        None,
        lambda s: {} if s.recorder_restarts is None else {"": s.recorder_restarts},
    ),
)


class MetricsPage:
    """Renders the registry and the streams; one scrape at a time, so that many scrapers cost no more than one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._prefixes: dict[tuple[str, str, str], str] = {}
        self._lock = threading.Lock()

    def render(self, streams: Iterable[StreamSnapshot]) -> bytes:
        """Return the page as UTF-8; `streams` is one consistent snapshot, taken by its owner."""
        with self._lock:
            chunks = [generate_latest(self._registry)]
            pending: list[str] = []
            for line in self._lines(list(streams)):
                pending.append(line)
                if len(pending) >= LINES_PER_HOLD:
                    chunks.append("".join(pending).encode())
                    pending.clear()
                    time.sleep(PAUSE_S)
            chunks.append("".join(pending).encode())
            return b"".join(chunks)

    def _lines(self, streams: Sequence[StreamSnapshot]) -> Iterator[str]:
        # Series that are gone are forgotten: only the prefixes of this page are kept for the next.
        known, self._prefixes = self._prefixes, {}
        for family in FAMILIES:
            yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
            for stream in streams:
                for value_label, value in family.values(stream).items():
                    key = (family.name, stream.id, value_label)
                    prefix = known.get(key) or series(family, stream.id, value_label)
                    self._prefixes[key] = prefix
                    yield f"{prefix} {number(value)}\n"


def series(family: Family, stream_id: str, label_value: str) -> str:
    r"""
    >>> series(FAMILIES[0], 'a"b', "")
    'detectd_stream_up{stream="a\\"b"}'
    """
    labels = f'stream="{escaped(stream_id)}"'
    if family.label is not None:
        labels += f',{family.label}="{escaped(label_value)}"'
    return f"{family.name}{{{labels}}}"


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def number(value: float) -> str:
    """Spell a value so that it reads back bit for bit.

    >>> number(True), number(12), number(0.1), number(float("-inf")), number(float("nan"))
    ('1', '12', '0.1', '-Inf', 'NaN')
    """
    if isinstance(value, int):
        return str(int(value))
    value = float(value)
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
