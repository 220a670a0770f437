"""Every number an operator can read, under the names of docs/protocol.md.

The few service-wide metrics live in an injected prometheus_client registry. Per-stream series, of which there may be
tens of thousands, are rendered by `exposition` from a snapshot; no series of theirs exists in between.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

INFERENCE_BUCKETS_S = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0)
LATENCY_BUCKETS_S = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)

PARTS = ("ingest", "engine", "publisher", "replay", "audio", "inference", "stream", "journal")
"""What can be unwell, as `health` names it: threads, what must advance, streams of our own, the journal."""


class Metrics:
    """The service-wide metrics; any thread may update them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else a second series per counter: its birth
        self.registry = registry
        self.build_info = Gauge(
            "detectd_build_info", "Always 1; the version is in the labels.", ["version", "python"], registry=registry
        )
        self.bundle_info = Gauge(
            "detectd_bundle_info",
            "Always 1; the bundle each detector has loaded.",
            ["detector", "bundle", "digest"],
            registry=registry,
        )
        self.rejected_blocks = Counter(
            "detectd_audio_rejected_blocks_total", "Blocks refused, by reason.", ["reason"], registry=registry
        )
        self.windows = Counter("detectd_windows_total", "Windows scored.", ["detector"], registry=registry)
        self.windows_shed = Counter(
            "detectd_windows_shed_total", "Windows left out, by reason.", ["detector", "reason"], registry=registry
        )
        self.inference_seconds = Histogram(
            "detectd_inference_seconds",
            "Time to score one batch of windows.",
            ["detector"],
            buckets=INFERENCE_BUCKETS_S,
            registry=registry,
        )
        self.detection_latency = BatchHistogram(
            "detectd_detection_latency_seconds",
            "From the arrival of a window's last sample to its score.",
            LATENCY_BUCKETS_S,
            registry,
        )
        self.events_published = Counter(
            "detectd_events_published_total", "Event messages handed to the PUB socket.", registry=registry
        )
        self.config_last_reload_successful = Gauge(
            "detectd_config_last_reload_successful", "1 if the newest configuration is in use.", registry=registry
        )
        self.config_last_reload_timestamp = Gauge(
            "detectd_config_last_reload_timestamp_seconds",
            "When a configuration was last loaded with success.",
            registry=registry,
        )
        self.start_timestamp = Gauge("detectd_start_timestamp_seconds", "When this run began.", registry=registry)
        self.fault = Gauge(
            "detectd_fault", "1 while this part of the service is not well; see /healthz.", ["part"], registry=registry
        )
        for part in PARTS:
            self.fault.labels(part)

    def mark(self, part: str, failing: bool) -> None:
        """Show whether a part of the service is well."""
        self.fault.labels(part).set(failing)


class BatchHistogram(Collector):
    """A histogram that takes a whole batch in one step: an observation per window would cost more than its score."""

    def __init__(self, name: str, documentation: str, bounds: tuple[float, ...], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = np.asarray(bounds)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, values: ArrayLike) -> None:
        """Count values, shape `(n,)`."""
        array = np.atleast_1d(np.asarray(values, dtype=np.float64))
        # side="left": a value equal to a bound belongs below it, as `le` says.
        counts = np.bincount(np.searchsorted(self._bounds, array, side="left"), minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(array.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        with self._lock:
            cumulative = np.cumsum(self._counts).tolist()
            total = self._sum
        bounds = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], buckets=list(zip(bounds, cumulative, strict=True)), sum_value=total)
        yield family
