"""`fit binary`: what the user asked for, to clips and features; `training.learn` does the rest."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectd.dsp.spec import FeatureSpec
from detectd.errors import DetectdError
from training import choose
from training.checks import check_copies, check_enough, check_sides, long_enough, side
from training.data import Clip, Skipped, read_clips
from training.fit import FitOptions
from training.learn import Learnt, Plan, learn
from training.models import AUTO
from training.recordings import find_segments

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BinaryRequest:
    """What the user asked for; None means: choose from the data."""

    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    backgrounds: tuple[str, ...]
    out: Path
    backbone: str = "auto"
    label: str | None = None
    window_s: float | None = None
    band_hz: tuple[float, float] | None = None
    options: FitOptions = field(default_factory=FitOptions)
    notes: dict[str, Any] = field(default_factory=dict)


def fit_binary(request: BinaryRequest, say: Say) -> Learnt:
    """Read, choose, train, and write one bundle.

    Parameters
    ----------
    say : callable
        Takes lines for the user: what was chosen and what was left out.

    Raises
    ------
    DetectdError
    """
    check_out(request.out)
    if request.window_s is not None:
        choose.check_window(request.window_s)
    skipped = Skipped()
    clips = _read(request, skipped)
    return fit_clips(request, clips, say, skipped)


def fit_clips(request: BinaryRequest, clips: list[Clip], say: Say, skipped: Skipped | None = None) -> Learnt:
    """As `fit_binary`, with clips that are in memory already.

    Raises
    ------
    DetectdError
    """
    skipped = skipped or Skipped()
    spec, clips, logarithm = _look(request, clips, skipped, say)
    for line in skipped.summary():
        say(line)
    check_enough(clips)
    plan = Plan(
        out=request.out,
        backbone=AUTO["binary"] if request.backbone == "auto" else request.backbone,
        label=request.label or _label(clips) or request.out.stem,
        spec=spec,
        logarithm=logarithm,
        options=request.options,
        notes={"skipped_files": len(skipped.lines) + skipped.n_copies} | request.notes,
    )
    return learn(clips, plan)


def check_out(out: Path) -> None:
    """Refuse a place where no bundle can be written, before the work rather than after.

    Raises
    ------
    DetectdError
    """
    if out.suffix != ".detectd" or not out.stem:
        raise DetectdError(f"--out {out}: expected a name ending in .detectd")
    if not out.parent.is_dir():
        raise DetectdError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.exists() and not (out / "manifest.json").is_file():
        raise DetectdError(f"--out {out}: is there and is no bundle; choose another name")


def _read(request: BinaryRequest, skipped: Skipped) -> list[Clip]:
    positives = find_segments(request.positives)
    negatives = find_segments([*request.negatives, *request.backgrounds])
    check_sides(positives, negatives)
    clips = []
    for segments, positive in ((positives, True), (negatives, False)):
        read = read_clips(segments, positive, skipped)
        if not read:
            raise DetectdError(
                f"none of the {len(segments)} {side(positive)} files can be used; "
                f"the first: {skipped.lines[-1] if skipped.lines else segments[0]}"
            )
        clips += read
    check_copies(clips)
    return clips


def _look(
    request: BinaryRequest, clips: list[Clip], skipped: Skipped, say: Say
) -> tuple[FeatureSpec, list[Clip], bool]:
    """Features, the clips long enough for them, and whether the network takes logarithms."""
    if request.window_s is None:
        window = choose.choose_window(clips)
        say(window.reason)
        window_s = window.value[0]
    else:
        window_s = request.window_s
    clips = long_enough(clips, window_s, skipped)
    seen = choose.survey(clips, window_s)
    if request.band_hz is None:
        band = choose.choose_band(seen)
        say(band.reason)
        band_hz = band.value[0], band.value[1]
    else:
        choose.check_band(clips, *request.band_hz)
        band_hz = request.band_hz
    if seen.coloured:
        say(f"logarithm of the amplitudes: the background is coloured, {seen.spread_db:.0f} dB from quiet bins to loud")
    return choose.picture_spec(band_hz, window_s), clips, seen.coloured


def _label(clips: list[Clip]) -> str | None:
    """Return the label that all positives of a CSV share, if they do."""
    labels = {clip.segment.label for clip in clips if clip.positive}
    return labels.pop()[:100] if len(labels) == 1 else None
