"""Events and heartbeats as the JSON of docs/protocol.md. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from detectd.engine.event import Event
from detectd.engine.tracker import EndReason, State
from detectd.publish.times import rfc3339

SCHEMA = 1
HEARTBEAT_TOPIC = "heartbeat"


def topic_of(stream: str, detector: str) -> str:
    """Topic of the messages about a detector's events on a stream."""
    return f"event/{stream}/{detector}"


def event_message(event: Event, *, run_id: str, seq: int, journaled: bool) -> str:
    """One state of an event as JSON.

    Parameters
    ----------
    seq : int
        Number of this message on its topic within the run, from 1.
    """
    end = event.end_sample
    duration_s = None if end is None else _duration_s(event.start_sample, end, event.sample_rate_hz)
    return _json(
        {
            "schema": SCHEMA,
            "run_id": run_id,
            "seq": seq,
            "event_id": event.event_id,
            "state": event.state,
            "stream": event.stream,
            "detector": event.detector,
            "kind": event.kind,
            "bundle": event.bundle,
            "label": event.label,
            "start_sample": event.start_sample,
            "end_sample": event.end_sample,
            "sample_rate_hz": event.sample_rate_hz,
            "start_time": rfc3339(event.start_utc_ns),
            "end_time": None if event.end_utc_ns is None else rfc3339(event.end_utc_ns),
            "duration_s": duration_s,
            "score": event.score,
            "peak_score": event.peak_score,
            "threshold": event.threshold,
            "probability": None,
            "lines": [
                {
                    "frequency_hz": round(line.frequency_hz, 3),
                    "snr_db": round(line.snr_db, 2),
                    "bandwidth_hz": round(line.bandwidth_hz, 3),
                }
                for line in event.lines
            ],
            "gap_samples": event.gap_samples,
            "journaled": journaled,
            "end_reason": event.end_reason,
        }
    )


def closing_message(newest: str, heard_sample: int, heard_ns: int, *, run_id: str, seq: int) -> str:
    """The end of an event that an earlier run left open.

    Parameters
    ----------
    newest : str
        The event's newest message; what it says of peak, lines and so on holds.
    heard_sample, heard_ns : int
        The event's last sample as far as it was heard, and when that was captured.
    """
    message = json.loads(newest)
    return _json(
        message
        | {
            "run_id": run_id,
            "seq": seq,
            "state": State.END,
            "end_sample": heard_sample,
            "end_time": rfc3339(heard_ns),
            "duration_s": _duration_s(message["start_sample"], heard_sample, message["sample_rate_hz"]),
            "journaled": True,
            "end_reason": EndReason.RESTART,
        }
    )


def heartbeat_message(
    run_id: str, utc_ns: int, seq: Mapping[str, int], streams: Mapping[str, Mapping[str, Any]]
) -> str:
    """The heartbeat: the last `seq` of each topic and how each stream is."""
    return _json({"run_id": run_id, "time": rfc3339(utc_ns), "seq": seq, "streams": streams})


def _duration_s(start_sample: int, end_sample: int, rate_hz: int) -> float:
    return (end_sample - start_sample + 1) / rate_hz


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
