"""What must hold before anything is trained: enough of both classes, long enough, and no clip on both sides."""

from collections.abc import Sequence

from detectd.errors import DetectdError
from training.data import Clip, Skipped
from training.recordings import Segment

MIN_RECORDINGS = 2
MIN_CLIPS = 4
MIN_SECONDS = 4.0
"""Of a class. One recording is held out, so two are needed; below the rest any accuracy is luck."""


def check_sides(positives: Sequence[Segment], negatives: Sequence[Segment]) -> None:
    """Refuse audio that is listed as both positive and negative.

    Raises
    ------
    DetectdError
        Naming the first such stretch.
    """
    by_file: dict[str, list[Segment]] = {}
    for segment in positives:
        by_file.setdefault(str(segment.path.resolve()), []).append(segment)
    for segment in negatives:
        for other in by_file.get(str(segment.path.resolve()), []):
            if segment.overlaps(other):
                raise DetectdError(f"{segment}: is given as both positive and negative; remove it from one side")


def check_copies(clips: Sequence[Clip]) -> None:
    """Refuse the same audio under two names on both sides.

    Raises
    ------
    DetectdError
    """
    positives = {clip.digest: clip for clip in clips if clip.positive}
    for clip in clips:
        if not clip.positive and clip.digest in positives:
            raise DetectdError(
                f"{positives[clip.digest].segment} (positive) and {clip.segment} (negative) hold the same audio; "
                "remove one of them"
            )


def long_enough(clips: Sequence[Clip], window_s: float, skipped: Skipped) -> list[Clip]:
    """Drop clips shorter than one window, noting each.

    Raises
    ------
    DetectdError
        If that leaves a class with nothing.
    """
    kept = [clip for clip in clips if round(clip.duration_s - window_s, 6) >= 0]
    for positive in (True, False):
        of_class = [clip for clip in clips if clip.positive is positive]
        if of_class and not any(clip.positive is positive for clip in kept):
            longest = max(clip.duration_s for clip in of_class)
            raise DetectdError(
                f"none of the {len(of_class)} {side(positive)} clips is as long as the window of {window_s:g} s "
                f"(longest: {longest:.3g} s); give a shorter --window or longer clips"
            )
    skipped.lines += [
        f"{clip.segment}: {clip.duration_s:.3g} s is shorter than the window of {window_s:g} s"
        for clip in clips
        if round(clip.duration_s - window_s, 6) < 0
    ]
    return kept


def check_enough(clips: Sequence[Clip]) -> None:
    """Refuse a class from which nothing can be learnt and held out.

    Raises
    ------
    DetectdError
    """
    for positive in (True, False):
        of_class = [clip for clip in clips if clip.positive is positive]
        seconds = sum(clip.duration_s for clip in of_class)
        recordings = len({clip.segment.session for clip in of_class})
        if recordings < MIN_RECORDINGS:
            raise DetectdError(
                f"the {len(of_class)} usable {side(positive)} clips come from {recordings} recording(s), at least "
                f"{MIN_RECORDINGS} are needed: one is held out to test on; add recordings made at another time"
            )
        if len(of_class) < MIN_CLIPS and seconds < MIN_SECONDS * MIN_CLIPS:
            raise DetectdError(
                f"{len(of_class)} usable {side(positive)} clips ({seconds:.3g} s) are too few; "
                f"give at least {MIN_CLIPS} clips, better 20 or more"
            )


def side(positive: bool) -> str:
    """Name of a class in messages."""
    return "positive" if positive else "negative"
