"""What becomes of a block, by docs/protocol.md: slow and obvious, for one source, one sample index at a time."""

from collections import Counter
from dataclasses import dataclass, field

HOUR_S = 3600


@dataclass
class Model:
    """The counts that each stream of a source must show."""

    epoch: int | None = None
    format: tuple | None = None
    expected: int = 0
    lost: list = field(default_factory=list)
    """Ranges of indices counted as a gap, or jumped over."""
    left: set = field(default_factory=set)
    """Epochs that were left."""
    run: list = field(default_factory=list)
    """Late blocks in a row that follow on each other, as (epoch, first, after)."""
    accepted: int = 0
    gap: int = 0
    resyncs: int = 0
    rejected: Counter = field(default_factory=Counter)
    refused_blocks: Counter = field(default_factory=Counter)
    samples: list = field(default_factory=list)
    """(epoch, index) of every sample accepted, in order."""

    def block(self, header, damage=None):
        """Take a block whose content is refused for `damage`; returns the indices accepted."""
        indices = list(range(header.first_sample, header.first_sample + header.n_frames))
        wanted = self._wanted(header, indices)
        if isinstance(wanted, str):
            self.rejected[wanted] += len(indices)
            self.refused_blocks[wanted] += 1
            return []
        self.expected = header.first_sample + header.n_frames
        self.run = []
        if len(wanted) < len(indices):
            self.rejected["late"] += len(indices) - len(wanted)
        if damage:
            self.rejected[damage] += len(wanted)
            self.refused_blocks[damage] += 1
            return []
        self.accepted += len(wanted)
        self.samples += [(header.epoch, index) for index in wanted]
        return wanted

    def _wanted(self, header, indices):
        kind = (header.sample_format, header.channels, header.rate_hz)
        if header.epoch in self.left:
            return self._late(header, indices, kind)
        if header.epoch != self.epoch:
            self._enter(header, kind)
            return indices
        if kind != self.format:
            return "format-changed"
        if header.first_sample - self.expected > HOUR_S * header.rate_hz:
            self.resyncs += 1
            self.lost.append(range(self.expected, header.first_sample))
            return indices
        if header.first_sample > self.expected:
            self.gap += header.first_sample - self.expected
            self.lost.append(range(self.expected, header.first_sample))
            return indices
        if indices and indices[-1] < self.expected:
            if any(index in hole for index in indices for hole in self.lost):
                return self._late(header, indices, kind)
            return "duplicate"
        return [index for index in indices if index >= self.expected]

    def _enter(self, header, kind):
        if self.epoch is not None:
            self.left.add(self.epoch)
        self.left.discard(header.epoch)
        self.epoch, self.format, self.lost = header.epoch, kind, [range(header.first_sample)]

    def _late(self, header, indices, kind):
        follows = self.run and self.run[-1][::2] == (header.epoch, header.first_sample)
        self.run = [*(self.run if follows else []), (header.epoch, None, header.first_sample + header.n_frames)]
        if len(self.run) < 10:
            return "late"
        self.resyncs += 1
        self.lost = []
        if header.epoch != self.epoch:
            self._enter(header, kind)
        return indices
