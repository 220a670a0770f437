"""What is to be seen of the daemon at a moment, for `monitor.health` to judge."""

import time
from collections.abc import Mapping

from detectd.engine.engine import Engine
from detectd.monitor.health import Part, Signs, StreamSigns
from detectd.publish.publisher import Publisher
from detectd.publish.replay import Replay
from detectd.service.ingest import Ingest
from detectd.service.loop import EngineLoop
from detectd.service.sources import LocalSources
from detectd.service.view import StreamView


class SignsOfLife:
    """Looks at the parts of a daemon.

    Attributes
    ----------
    own : mapping
        The daemon's own streams, each with the id of its source.
    """

    def __init__(
        self,
        ingest: Ingest,
        engine: Engine,
        loop: EngineLoop,
        publisher: Publisher,
        replay: Replay,
        sources: LocalSources,
        view: StreamView,
    ) -> None:
        self._ingest = ingest
        self._engine = engine
        self._loop = loop
        self._publisher = publisher
        self._replay = replay
        self._sources = sources
        self._view = view
        self.own: Mapping[str, str] = {}

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
        plays = self._sources.plays()
        signs = []
        for stream in self._view.streams:
            why = plays.get(self.own.get(stream.id, ""))
            signs.append(StreamSigns(stream.id, stream.up, stream.rate_hz, ours=why is not None, why=why or ""))
        return signs
