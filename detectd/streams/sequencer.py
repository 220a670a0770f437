"""Which samples of a block are new: the accounting rules of the wire, for one source. Pure."""

from collections import deque
from dataclasses import dataclass

from detectd.streams.wire import Flag, Header, Refusal

RESYNC_JUMP_S = 3600
RESYNC_LATE_BLOCKS = 10
_REMEMBERED = 64
"""Holes and past epochs kept in mind; with more, an old block may be called late where it was a duplicate."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an accepted block stands.

    Attributes
    ----------
    new_epoch : bool
        The block begins a new epoch; its first sample is the first expected.
    resync : bool
        The index was lost and set anew: a gap of 0, counted as a resync.
    gap_samples : int
        Samples lost in front of the block.
    discontinuity : bool
        The sender says that the audio does not follow on.
    trim : int
        Frames at the block's beginning that are known already.
    """

    new_epoch: bool = False
    resync: bool = False
    gap_samples: int = 0
    discontinuity: bool = False
    trim: int = 0


_FOLLOWS_ON = Placement()
"""Of nearly every block there is; making one anew costs more than finding out that it is this one."""


class Sequencer:
    """The expected index of one source and what it takes to change it."""

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._format: tuple[int, int, int] = (0, 0, 0)
        self._expected = 0
        self._holes: deque[tuple[int, int]] = deque()
        self._past_epochs: deque[int] = deque(maxlen=_REMEMBERED)
        self._late_run = 0
        self._late_next: tuple[int, int] = (0, 0)

    @property
    def epoch(self) -> int | None:
        """The epoch that goes on."""
        return self._epoch

    @property
    def expected(self) -> int:
        """Index of the sample that should come next."""
        return self._expected

    def place(self, header: Header) -> Placement | Refusal:
        """Place the next block of this source; what is refused changes nothing but the count towards a resync."""
        if header.epoch != self._epoch:
            if header.epoch in self._past_epochs:
                return self._late(header, Refusal.LATE)
            return self._begin_epoch(header)
        if header[1:4] != self._format:
            return Refusal.FORMAT_CHANGED
        ahead = header.first_sample - self._expected
        if ahead > RESYNC_JUMP_S * header.rate_hz:
            self._note_hole(header)
            return self._accept(header, Placement(resync=True))
        if ahead < 0 and ahead + header.n_frames <= 0:
            return self._late(header, Refusal.LATE if self._in_hole(header) else Refusal.DUPLICATE)
        if ahead > 0:
            self._note_hole(header)
        marked = bool(header.flags & Flag.DISCONTINUITY)
        if not ahead and not marked:
            return self._accept(header, _FOLLOWS_ON)
        return self._accept(header, Placement(gap_samples=max(0, ahead), discontinuity=marked, trim=max(0, -ahead)))

    def _begin_epoch(self, header: Header, *, resync: bool = False) -> Placement:
        if self._epoch is not None:
            self._past_epochs.append(self._epoch)
        self._epoch = header.epoch
        self._format = header[1:4]
        # Nothing before the first block was ever here.
        self._holes = deque([(0, header.first_sample)])
        return self._accept(header, Placement(new_epoch=True, resync=resync))

    def _accept(self, header: Header, placement: Placement) -> Placement:
        self._expected = header.first_sample + header.n_frames
        self._late_run = 0
        return placement

    def _late(self, header: Header, refusal: Refusal) -> Placement | Refusal:
        """Refuse an old block, unless so many late ones in a row follow on each other that the index must be wrong."""
        if refusal is Refusal.DUPLICATE:
            return refusal
        here = (header.epoch, header.first_sample)
        self._late_run = self._late_run + 1 if here == self._late_next else 1
        self._late_next = (header.epoch, header.first_sample + header.n_frames)
        if self._late_run < RESYNC_LATE_BLOCKS:
            return refusal
        if header.epoch != self._epoch:
            self._past_epochs.remove(header.epoch)
            return self._begin_epoch(header, resync=True)
        self._holes.clear()
        return self._accept(header, Placement(resync=True))

    def _note_hole(self, header: Header) -> None:
        """Remember samples that were not here; where that becomes too much, what lies between old holes counts too."""
        self._holes.append((self._expected, header.first_sample))
        if len(self._holes) > _REMEMBERED:
            (first, _), (_, after) = self._holes.popleft(), self._holes.popleft()
            self._holes.appendleft((first, after))

    def _in_hole(self, header: Header) -> bool:
        end = header.first_sample + header.n_frames
        return any(first < end and header.first_sample < after for first, after in self._holes)
