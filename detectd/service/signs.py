"""What is to be seen of the daemon at a moment, for `monitor.health` to judge."""

import time

from detectd.engine.engine import Engine
from detectd.monitor.health import Part, Signs, StreamSigns
from detectd.publish.publisher import Publisher
from detectd.publish.replay import Replay
from detectd.service.ingest import Ingest
from detectd.service.loop import EngineLoop
from detectd.service.view import StreamView


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

    def __call__(self) -> Signs:
        """Look now."""
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
            streams=self._streams(),
            events=self._view.events,
            journal=self._publisher.journal_fault,
        )

    def _streams(self) -> list[StreamSigns]:
        obstacles = self._view.obstacles()
        return [
            StreamSigns(s.id, s.up, s.rate_hz, ours=s.id in obstacles, why=obstacles.get(s.id, ""))
            for s in self._view.streams
        ]
