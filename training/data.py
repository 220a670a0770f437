"""From segments to clips of audio to windows. The features are the daemon's own (`detectd.dsp.features.windows_of`)."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detectd.dsp.clips import read_clip
from detectd.dsp.features import windows_of
from detectd.dsp.spec import FeatureSpec
from detectd.errors import SourceError
from training.recordings import Segment

Floats = NDArray[np.float32]

HOP_S = 0.25
"""Time between the windows of a clip; the default of `detectd score`, so that clip scores agree."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One channel of one segment, in memory.

    Attributes
    ----------
    samples : float32 array, shape (n,)
    positive : bool
        Which class it belongs to.
    digest : str
        SHA-256 of rate and samples.
    """

    segment: Segment
    samples: Floats
    rate_hz: int
    positive: bool
    digest: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate_hz


@dataclass(slots=True)
class Skipped:
    """What was left out, by reason: the lines that say so."""

    lines: list[str] = field(default_factory=list)
    n_copies: int = 0

    def summary(self) -> list[str]:
        """Return one line per file left out, and one for all copies."""
        copies = [f"skipped {self.n_copies} clips that are exact copies of others"] if self.n_copies else []
        return [f"skipped {line}" for line in self.lines] + copies


def read_clips(segments: Iterable[Segment], positive: bool, skipped: Skipped) -> list[Clip]:
    """Read segments; each channel of a file becomes a clip of its own, as it would be a stream of its own.

    What cannot be read is noted in `skipped`, as are exact copies. A clip of one single value (digital silence) tells
    nothing of any class and is noted too.
    """
    clips: list[Clip] = []
    seen: set[str] = set()
    at: Path | None = None
    audio, rate_hz = np.empty((0, 1), np.float32), 1
    for segment in segments:
        try:
            if segment.path != at:  # rows of one file stand together as a rule: read it once
                at = None
                audio, rate_hz = read_clip(segment.path)
                at = segment.path
            for clip in _cut(segment, audio, rate_hz, positive):
                if clip.digest in seen:
                    skipped.n_copies += segment.path == at and audio.shape[1] == 1
                    continue
                seen.add(clip.digest)
                clips.append(clip)
        except SourceError as error:
            skipped.lines.append(str(error))
    return clips


def _cut(segment: Segment, audio: Floats, rate_hz: int, positive: bool) -> list[Clip]:
    end = len(audio) if segment.end_s is None else round(segment.end_s * rate_hz)
    stretch = audio[round(segment.start_s * rate_hz) : end]
    if not len(stretch):
        raise SourceError(f"{segment}: the file is only {len(audio) / rate_hz:g} s long")
    channels = [np.ascontiguousarray(stretch[:, channel]) for channel in range(stretch.shape[1])]
    sounding = [samples for samples in channels if np.ptp(samples) > 0]
    if not sounding:
        raise SourceError(f"{segment}: is digital silence")
    return [make_clip(segment, samples, rate_hz, positive) for samples in sounding]


def make_clip(segment: Segment, samples: Floats, rate_hz: int, positive: bool) -> Clip:
    """Make a clip of samples in memory, shape (n,)."""
    digest = hashlib.sha256(f"{rate_hz} ".encode() + samples.astype("<f4").tobytes()).hexdigest()
    return Clip(segment, samples, rate_hz, positive, digest)


def data_digest(clips: Iterable[Clip]) -> str:
    """SHA-256 over the sorted digests of all clips, one a line: the same set in any order gives the same digest."""
    return hashlib.sha256("".join(sorted(f"{clip.digest}\n" for clip in clips)).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Windows of many clips.

    Attributes
    ----------
    pictures : float32 array, shape (n_windows, n_frames, n_bins)
    positive : bool array, shape (n_windows,)
    clip : int array, shape (n_windows,)
        Index of the clip that a window was cut from.
    """

    pictures: Floats
    positive: NDArray[np.bool_]
    clip: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.pictures)

    def clip_scores(self, scores: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Clip score = mean of its windows' scores; with each clip's class, both of shape (n_clips,)."""
        _, first, member = np.unique(self.clip, return_index=True, return_inverse=True)
        means = np.bincount(member, weights=scores) / np.bincount(member)
        return means.astype(np.float32), self.positive[first]


def cut_windows(clips: Sequence[Clip], spec: FeatureSpec, hop_s: float = HOP_S) -> Windows:
    """All windows of `clips`, a window every `hop_s`."""
    parts = [windows_of(clip.samples, clip.rate_hz, spec, hop_s)[0] for clip in clips]
    counts = [len(part) for part in parts]
    owner = np.repeat(np.arange(len(clips)), counts)
    classes = np.array([clip.positive for clip in clips], bool)
    pictures = np.concatenate(parts) if parts else np.empty((0, *spec.shape), np.float32)
    return Windows(pictures, classes[owner], owner)
