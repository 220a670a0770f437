"""An event as the engine hands it out: in samples and in time, not yet in anybody's wire format."""

from dataclasses import dataclass

from detectd.dsp.lines import Line
from detectd.engine.tracker import EndReason, State


@dataclass(frozen=True, slots=True)
class Event:
    """One state of one event.

    Attributes
    ----------
    event_id : str
        The same in all states of an event.
    kind, bundle, threshold : str, str, float
        Of the detector as it was when this was scored: what the bundle is, its name and digest, and its `on`.
    start_sample, end_sample : int
        First and last sample, inclusive; the end is None while the event goes on.
    start_utc_ns, end_utc_ns : int
        When these two were captured.
    heard_sample, heard_utc_ns : int
        The end if there is one, else where it would be if nothing more were heard.
    score, peak_score : float
        Of the last window, and of the most extreme one.
    lines : tuple of Line
        Of the window with the peak score.
    gap_samples : int
        Samples missing within the event.
    """

    event_id: str
    state: State
    stream: str
    detector: str
    kind: str
    bundle: str
    threshold: float
    label: str
    start_sample: int
    end_sample: int | None
    sample_rate_hz: int
    start_utc_ns: int
    end_utc_ns: int | None
    heard_sample: int
    heard_utc_ns: int
    score: float
    peak_score: float
    lines: tuple[Line, ...]
    gap_samples: int
    end_reason: EndReason | None
