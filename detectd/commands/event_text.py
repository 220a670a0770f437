"""An event message in one line, for a person's eyes."""

from typing import Any


def event_text(event: dict[str, Any]) -> str:
    """An event for a person's eyes, one line."""
    lines = ", ".join(f"{line['frequency_hz']:.1f} Hz (+{line['snr_db']:.0f} dB)" for line in event["lines"][:5])
    when = event["end_time"] if event["state"] == "end" else event["start_time"]
    seconds = f" after {event['duration_s']:.2f} s ({event['end_reason']})" if event["state"] == "end" else ""
    head = f"{when[:23]}Z {event['state']:<6} {event['stream']} / {event['detector']}: {event['label']}{seconds}"
    return f"{head}  score {event['score']:.2f} peak {event['peak_score']:.2f}" + (f"  lines {lines}" if lines else "")
