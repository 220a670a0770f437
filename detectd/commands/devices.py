"""Inputs that can be recorded: `detectd devices`."""

from collections.abc import Sequence
from typing import Any

from detectd.capture.portaudio import inputs, quiet, rates_hz
from detectd.capture.surroundings import check_server


def device_rows() -> list[dict[str, Any]]:
    """One entry a device; trying out their rates opens each for a moment.

    Raises
    ------
    SourceError
        Without PortAudio, or while the sound server stands still.
    """
    check_server()
    with quiet():
        return [
            {
                "name": device.name,
                "host_api": device.host_api,
                "channels": device.channels,
                "default_rate_hz": device.default_rate_hz,
                "rates_hz": rates_hz(device),
                "default": device.is_default,
            }
            for device in inputs()
        ]


def devices_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows for a person's eyes."""
    if not rows:
        return "no input devices: no sound card, and no sound server of this user that answers"
    lines = []
    for row in rows:
        mark = "  (default)" if row["default"] else ""
        rates = " ".join(map(str, row["rates_hz"])) or "none of the usual; in use?"
        lines += [
            f"{row['name']}{mark}",
            f"    {row['host_api']}, channels {row['channels']}, {row['default_rate_hz']} samples/s; does {rates}",
        ]
    return "\n".join(lines)
