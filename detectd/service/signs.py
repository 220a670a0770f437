"""What is to be seen of the daemon at a moment, for `monitor.health` to judge."""

import time

from detectd.engine.engine import Engine
from detectd.monitor.health import Part, Signs, StreamSigns
from detectd.publish.publisher import Publisher
from detectd.publish.replay import Replay
from detectd.service.ingest import Ingest
from detectd.service.loop import EngineLoop
from detectd.service.view import StreamView

_STREAMS_EVERY_S = 0.4
_STREAMS_SHARE = 0.05
"""Of the time, that looking at the streams may take: with thousands of them, it is done less often."""


class SignsOfLife:
    """Looks at the parts of a daemon."""

    def __init__(
        self,
        ingest: Ingest,
        engine: Engine,
        loop: EngineLoop,
        publisher: Publisher,
        replay: Replay,
        view: StreamView,
    ) -> None:
        self._ingest = ingest
        self._engine = engine
        self._loop = loop
        self._publisher = publisher
        self._replay = replay
        self._view = view
        self._streams: list[StreamSigns] = []
        self._events = 0
        self._streams_due_s = 0.0

    def __call__(self) -> Signs:
        """Look now."""
        if time.monotonic() >= self._streams_due_s:
            self._look_at_streams()
        engine = self._engine
        progress = engine.progress
        return Signs(
            parts=(
                Part("ingest", self._ingest.alive, self._ingest.looped_s),
                Part("engine", self._loop.alive, (self._loop.stepped_s, progress)),
                Part("publisher", self._publisher.alive, self._publisher.looped_s),
                Part("replay", self._replay.alive, time.monotonic()),
            ),
            audio_waits=engine.waiting,
            analysed=progress.analysed_samples,
            windows_wait=progress.due_windows > progress.done_windows,
            scored=progress.done_windows,
            streams=self._streams,
            events=self._events,
            journal=fault.removeprefix("journal ") if (fault := self._publisher.journal_fault) else None,
        )

    def _look_at_streams(self) -> None:
        began_s = time.monotonic()
        obstacles = self._view.obstacles()
        self._streams = [
            StreamSigns(s.id, s.up, s.rate_hz, s.id in obstacles, obstacles.get(s.id, "")) for s in self._view.streams
        ]
        self._events = self._view.events
        took_s = time.monotonic() - began_s
        self._streams_due_s = began_s + max(_STREAMS_EVERY_S, took_s / _STREAMS_SHARE)
