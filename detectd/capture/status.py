"""What a recorder tells its supervisor, as lines of JSON, and what it is told when it starts. Pure."""

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

STARTING = "starting"
"""Reason of a recorder that has not looked for its device yet."""

HUNG = 75
"""Exit code of a recorder that PortAudio does not come back to: start another."""


BUG = 70
"""Exit code of a recorder one of whose threads has died."""


class RecorderState(StrEnum):
    """What a recorder is doing."""

    WAITING = "waiting"
    """Its device has not been there yet."""
    RECORDING = "recording"
    LOST = "lost"
    """Its device was there and gives nothing now."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to record, and where it goes.

    Attributes
    ----------
    rate_hz, channels : int or None
        None: what the device has by itself; without `mix`, one channel.
    pinned, name : str or None
        Source of the sound server that the device was the last time, and its whole name; no other will do.
    """

    device: str
    stream_id: str
    endpoint: str
    rate_hz: int | None
    channels: int | None
    mix: bool
    pinned: str | None = None
    name: str | None = None

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, line: str) -> "Task":
        """Read what `line` gave."""
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class Status:
    """One moment of a recorder.

    Attributes
    ----------
    reason : str
        Why it is not recording; notes while it is.
    drift_ppm : float or None
        How much faster the device's clock is than its nominal rate.
    lost_samples : int
        Of each channel, never received from the device and put as gaps.
    dropped_samples : int
        Of each channel, recorded and not sent: nobody took them, or they might be another device's.
    pinned : str or None
        The sound server's name for the source.
    untaken : bool
        Whether nobody takes what is recorded.
    """

    state: RecorderState
    reason: str = ""
    device: str = ""
    rate_hz: int = 0
    channels: int = 0
    drift_ppm: float | None = None
    lost_samples: int = 0
    dropped_samples: int = 0
    pinned: str | None = None
    untaken: bool = False

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, line: str) -> "Status":
        """Read what `line` gave; fields of another version are passed over.

        Raises
        ------
        ValueError
            If that is no status.
        """
        values: dict[str, Any] = json.loads(line)
        if not isinstance(values, dict) or "state" not in values:
            raise ValueError("no status")
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**{**known, "state": RecorderState(values["state"])})
