"""What the outside is told of the streams: on the page of metrics and in the heartbeat."""

import time
from collections.abc import Mapping
from typing import Any

from detectd.capture.supervisor import DeviceStatus
from detectd.engine.engine import Engine
from detectd.monitor.exposition import StreamSnapshot
from detectd.service.sources import LocalSources
from detectd.streams.intake import Intake
from detectd.streams.stream import Stream


class StreamView:
    """Reads what ingest, engine and sources keep of each stream; any thread may ask.

    Attributes
    ----------
    own : mapping
        The daemon's own streams, each with the id of its source.
    """

    def __init__(self, intake: Intake, engine: Engine, sources: LocalSources) -> None:
        self._intake = intake
        self._engine = engine
        self._sources = sources
        self.own: Mapping[str, str] = {}

    @property
    def streams(self) -> list[Stream]:
        """All streams of this moment."""
        return list(self._intake.streams.values())

    @property
    def events(self) -> int:
        """Events begun, of all streams."""
        return sum(watch.events for stream in self.streams for watch in self._engine.watches(stream.id))

    def snapshots(self) -> list[StreamSnapshot]:
        """Every stream's books."""
        devices = self._sources.devices()
        return [self._snapshot(stream, devices.get(self.own.get(stream.id, ""))) for stream in self.streams]

    def obstacles(self) -> dict[str, str]:
        """What is in the way of each own stream that should be heard now; empty if nothing is known to be."""
        plays = self._sources.plays()
        return {stream_id: plays[source_id] for stream_id, source_id in self.own.items() if source_id in plays}

    def heartbeat(self) -> Mapping[str, Mapping[str, Any]]:
        """The heartbeat's table of streams."""
        now_s = time.monotonic()
        obstacles = self.obstacles()
        return {
            stream.id: {
                "state": "up" if stream.up else "down",
                "last_sample": stream.end_sample - 1 if stream.end_sample else None,
                "gap_samples": stream.gap_samples,
                "lag_s": round(self._engine.lag_s(stream.id, now_s), 3),
                **({"reason": obstacles[stream.id]} if not stream.up and obstacles.get(stream.id) else {}),
            }
            for stream in self.streams
        }

    def _snapshot(self, stream: Stream, device: DeviceStatus | None) -> StreamSnapshot:
        books = stream.backlog.books()
        watches = self._engine.watches(stream.id)
        return StreamSnapshot(
            id=stream.id,
            up=stream.up,
            accepted=books.accepted,
            analysed=books.analysed,
            pending=books.pending,
            overrun=books.overrun,
            gap=stream.gap_samples,
            resyncs=stream.resyncs,
            rejected=dict(stream.rejected),
            last_sample_utc_s=stream.last_utc_ns / 1e9 if stream.last_utc_ns else None,
            scores={watch.detector.name: watch.score for watch in watches if watch.score is not None},
            events={watch.detector.name: watch.events for watch in watches},
            drift_ppm=device.drift_ppm if device else None,
            recorder_restarts=device.restarts if device else None,
        )
