"""Blocks of the wire into the backlogs of streams, every sample of them accounted for. No sockets, no clock.

Never raises for what a sender did: a block is taken, or refused by reason and counted.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectd.dsp.audio import SampleFormat
from detectd.streams.backlog import Break, Chunk, Mark
from detectd.streams.sequencer import Placement, Sequencer
from detectd.streams.stream import Stream
from detectd.streams.wire import Flag, Header, Refusal, WireBlock, blocks_of, channel_ids, samples_of

MAX_STREAMS = 20_000
"""Streams a daemon keeps at most, so that a sender of random names cannot fill the memory."""

CROWDED = 0.5
"""Share of a backlog above which it is crowded: the other half is for what is on its way already."""

MAX_BLOCKS = 4096
"""Blocks of one message that are read: others' audio waits meanwhile."""

PINNED = 32
"""A payload that is a smaller part of its message is copied, so that what waits never holds much more than itself."""

FORGET_S = 3700.0
"""Silence after which a stream's series and memory are given up; an hour is promised."""

_MOST_UNWANTED = 256

SILENCE_S = 2.0
SILENCE_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a message came.

    Attributes
    ----------
    utc_ns : int
        Wall clock; stands in for a capture time the sender did not give.
    monotonic_s : float
    """

    utc_ns: int
    monotonic_s: float


@dataclass(frozen=True, slots=True)
class Admission:
    """What the configuration says of a stream at a rate: who it is for, and why not."""

    known: bool
    rate_holds: bool = True
    mask_hz: tuple[float, ...] = ()


class _Source:
    """A sender's source: its index, the streams that are wanted of it and the channels they are."""

    def __init__(self) -> None:
        self.sequencer = Sequencer()
        self.streams: list[Stream] = []
        self.channels: list[int] = []
        self.format: tuple[int, int, int] = (0, 0, 0)
        self.heard_s = 0.0
        self.block_s = 0.0
        self.up = False

    def mark(self, mark: Mark) -> None:
        for stream in self.streams:
            stream.backlog.mark(mark)

    def reject(self, reason: Refusal, n_samples: int) -> None:
        for stream in self.streams:
            stream.rejected[reason] += n_samples

    def hear(self, listened_s: float, block_s: float) -> None:
        self.up, self.heard_s, self.block_s = True, listened_s, block_s
        for stream in self.streams:
            stream.heard_s = listened_s

    def end(self) -> None:
        self.up = False
        for stream in self.streams:
            _end(stream)


class Intake:
    """All sources and their streams.

    Parameters
    ----------
    admit : callable
        ``admit(stream_id, rate_hz, local)`` says whether a stream is wanted; `local` tells the daemon's own sources.
    max_backlog_s : float
        Audio that a stream may have waiting.
    on_stream : callable
        Told of each new stream, before its first block is in.
    on_gone : callable
        Told of each stream that is forgotten.
    on_refused : callable
        Told the reason of every block refused.
    """

    def __init__(
        self,
        admit: Callable[[str, int, bool], Admission],
        max_backlog_s: float,
        on_stream: Callable[[Stream], None],
        on_gone: Callable[[Stream], None],
        on_refused: Callable[[Refusal], None],
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self._admit = admit
        self._max_backlog_s = max_backlog_s
        self._on_stream = on_stream
        self._on_gone = on_gone
        self._on_refused = on_refused
        self._expected: frozenset[str] = frozenset()
        self.unwanted: dict[str, Refusal] = {}
        """Sources of which nothing is taken, with the newest reason; so many and no more."""
        self.leaving: frozenset[str] = frozenset()
        """Sources of the daemon's own that it is stopping itself: their ends are told by who stops them."""
        self._crowded: set[Stream] = set()
        self._sources: dict[tuple[str, bool], _Source] = {}

    def take(self, parts: Sequence[memoryview], arrival: Arrival, listened_s: float, *, local: bool = False) -> None:
        """Take a message.

        Parameters
        ----------
        listened_s : float
            How long the caller has been able to listen; the clock that silence is measured by.
        """
        message_bytes = sum(map(len, parts))
        for number, block in enumerate(blocks_of(parts)):
            if number == MAX_BLOCKS:
                self._on_refused(Refusal.OVERSIZED)
                return
            refusal: Refusal | None
            if isinstance(block, Refusal):
                refusal = block
            else:
                if len(block.payload) * PINNED < message_bytes:
                    block = WireBlock(block.header, memoryview(bytes(block.payload)))  # noqa: PLW2901  # the same block
                refusal = self._take_block(block, arrival, listened_s, local=local)
            if refusal is not None:
                self._on_refused(refusal)

    def reconsider(
        self,
        admit: Callable[[str, int, bool], Admission],
        max_backlog_s: float,
        expected: Collection[str],
    ) -> None:
        """Ask of every stream anew whether it is wanted, after the configuration has changed.

        What is wanted still goes on without a break. What is not is forgotten.

        Parameters
        ----------
        admit, max_backlog_s
            As when this was made.
        expected : collection of str
            Ids of the daemon's own streams: they are there, and stay, whether they were ever heard or not.
        """
        # Before anybody else may adopt them: the network's stream of such a name is another.
        for stream_id in self._expected.difference(expected):
            self._forget(self.streams[stream_id])
        self._admit, self._max_backlog_s, self._expected = admit, max_backlog_s, frozenset(expected)
        self.unwanted.clear()
        for key, source in list(self._sources.items()):
            if not self._renew(source, *key):
                source.end()
                del self._sources[key]
        for stream in list(self.streams.values()):
            admission = admit(stream.id, stream.rate_hz, stream.id in self._expected)
            if not admission.known:
                self._forget(stream)
            elif stream.mask_hz != admission.mask_hz:
                stream.mask_hz = admission.mask_hz
                stream.backlog.mark(Mark(Break.GAP, 0))
            stream.backlog.capacity_samples = int(max_backlog_s * stream.rate_hz)
        for stream_id in expected:
            self._stream(stream_id, admit(stream_id, 0, True))

    def _renew(self, source: _Source, source_id: str, local: bool) -> bool:
        """Compare a source's streams with those wanted of it; returns whether any is."""
        _, channels, rate_hz = source.format
        admissions = {i: self._admit(i, rate_hz, local) for i in channel_ids(source_id, channels)}
        if not any(admission.known and admission.rate_holds for admission in admissions.values()):
            return False
        before = {stream.id: stream for stream in source.streams}
        source.channels, source.streams = [], []
        for channel, (stream_id, admission) in enumerate(admissions.items()):
            if not admission.known:
                continue
            stream = before.pop(stream_id, None)
            if stream is None:
                stream = self._stream(stream_id, admission)
                if stream.up:  # another source's
                    continue
                self._adopt(stream, source, source.sequencer.expected)
                stream.up, stream.heard_s = source.up, source.heard_s
            source.channels.append(channel)
            source.streams.append(stream)
        for stream in before.values():
            _end(stream)
        return True

    def _forget(self, stream: Stream) -> None:
        del self.streams[stream.id]
        self._on_gone(stream)

    def end_silent(self, listened_s: float) -> None:
        """End the streams that were silent for too long, and forget those that have been for very long."""
        for key, source in list(self._sources.items()):
            silent_s = listened_s - source.heard_s
            if source.up and silent_s >= max(SILENCE_S, SILENCE_BLOCKS * source.block_s):
                source.end()
            elif not source.up and silent_s >= FORGET_S:
                del self._sources[key]
        for stream in list(self.streams.values()):
            if not stream.up and listened_s - stream.heard_s >= FORGET_S and stream.id not in self._expected:
                self._forget(stream)

    @property
    def crowded(self) -> bool:
        """Whether a backlog is so full that its sender had better wait."""
        self._crowded = {stream for stream in self._crowded if stream.backlog.fill > CROWDED}
        return bool(self._crowded)

    def _take_block(self, block: WireBlock, arrival: Arrival, listened_s: float, *, local: bool) -> Refusal | None:
        header = block.header
        source = self._sources.get((header.stream_id, local))
        if source is None or source.sequencer.epoch != header.epoch:
            refusal = self._refusal(header, source, listened_s, local=local)
            if refusal is not None:
                if len(self.unwanted) < _MOST_UNWANTED:
                    self.unwanted[header.stream_id] = refusal
                return refusal
            source = self._sources.setdefault((header.stream_id, local), source or _Source())
        placement = source.sequencer.place(header)
        if isinstance(placement, Refusal):
            source.reject(placement, header.n_frames)
            return placement
        if placement.new_epoch:
            self._begin_epoch(source, header, local=local)
        _mark_breaks(source, header, placement)
        source.hear(listened_s, header.n_frames / header.rate_hz)
        samples = samples_of(block)
        if placement.trim:
            source.reject(Refusal.LATE, placement.trim)
        if isinstance(samples, Refusal):
            # These samples did arrive, so they count as refused and not as a gap too.
            source.reject(samples, header.n_frames - placement.trim)
            source.mark(Mark(Break.GAP, header.n_frames - placement.trim))
        else:
            self._put(source, header, samples[placement.trim :], arrival)
        if header.flags & Flag.END and not (local and header.stream_id in self.leaving):
            source.end()
        return samples if isinstance(samples, Refusal) else None

    def _refusal(self, header: Header, source: _Source | None, listened_s: float, *, local: bool) -> Refusal | None:
        """Why an epoch of this source is not wanted, if so."""
        known = [
            (stream_id, admission)
            for stream_id in channel_ids(header.stream_id, header.channels)
            if (admission := self._admit(stream_id, header.rate_hz, local)).known
        ]
        if not known:
            return Refusal.UNKNOWN_STREAM
        if len(self.streams) + sum(stream_id not in self.streams for stream_id, _ in known) > MAX_STREAMS:
            return Refusal.TOO_MANY_STREAMS
        streams = [self._stream(stream_id, admission) for stream_id, admission in known]
        if any(stream.up and stream.owner is not source for stream in streams):
            return Refusal.TAKEN
        if any(admission.rate_holds for _, admission in known):
            return None
        for stream in streams:
            stream.heard_s = listened_s
            stream.rejected[Refusal.RATE_TOO_LOW] += header.n_frames
        return Refusal.RATE_TOO_LOW

    def _begin_epoch(self, source: _Source, header: Header, *, local: bool) -> None:
        source.format = header[1:4]
        ids = channel_ids(header.stream_id, header.channels)
        admissions = [(stream_id, self._admit(stream_id, header.rate_hz, local)) for stream_id in ids]
        source.channels = [channel for channel, (_, admission) in enumerate(admissions) if admission.known]
        before, source.streams = source.streams, [self._stream(*admissions[channel]) for channel in source.channels]
        for stream in before:
            if stream not in source.streams:
                _end(stream)
        for stream in source.streams:
            self._adopt(stream, source, header.first_sample)

    def _adopt(self, stream: Stream, source: _Source, first_sample: int) -> None:
        """Have a stream be a source's channel from a sample on."""
        sample_format, _, rate_hz = source.format
        stream.owner = source
        stream.rate_hz = rate_hz
        stream.backlog.capacity_samples = int(self._max_backlog_s * rate_hz)
        scale = SampleFormat(sample_format).scale
        stream.backlog.mark(Mark(Break.EPOCH, 0, first_sample, rate_hz, scale))

    def _stream(self, stream_id: str, admission: Admission) -> Stream:
        if stream_id not in self.streams:
            self.streams[stream_id] = Stream(stream_id, admission.mask_hz)
            self._on_stream(self.streams[stream_id])
        return self.streams[stream_id]

    def _put(self, source: _Source, header: Header, samples: NDArray[np.generic], arrival: Arrival) -> None:
        utc_ns = header.t_first_utc_ns or arrival.utc_ns
        end_sample = header.first_sample + header.n_frames
        last_utc_ns = utc_ns + round((header.n_frames - 1) * 1_000_000_000 / header.rate_hz)
        for channel, stream in zip(source.channels, source.streams, strict=True):
            stream.up, stream.end_sample = True, end_sample
            if len(samples):
                stream.last_utc_ns = last_utc_ns
                first_sample = end_sample - len(samples)
                stream.backlog.put(
                    Chunk(samples[:, channel], first_sample, utc_ns, header.first_sample, arrival.monotonic_s)
                )
                if stream.backlog.fill > CROWDED:
                    self._crowded.add(stream)


def _end(stream: Stream) -> None:
    stream.up = False
    stream.backlog.mark(Mark(Break.END))


def _mark_breaks(source: _Source, header: Header, placement: Placement) -> None:
    if placement.resync:
        source.mark(Mark(Break.RESYNC, 0, header.first_sample))
        for stream in source.streams:
            stream.resyncs += 1
    elif placement.gap_samples or placement.discontinuity:
        source.mark(Mark(Break.GAP, placement.gap_samples))
        for stream in source.streams:
            stream.gap_samples += placement.gap_samples
