"""Whether devices may have come or gone, found out without looking at each: that opens all of them, for 40 ms."""

import os
from pathlib import Path

from detectd.capture.pin import on_server
from detectd.capture.pulse import ServerGoneError
from detectd.capture.pulse_wire import ProtocolError
from detectd.errors import SourceError

_CARDS = Path("/proc/asound/cards")
_SILENT = "silent"


def surroundings() -> tuple[object, ...]:
    """A value that changes when a sound card, the sound server or ALSA's configuration does."""
    home = Path(os.environ.get("HOME", "/"))
    config = Path(os.environ.get("XDG_CONFIG_HOME", home / ".config"))
    files = (Path("/etc/asound.conf"), home / ".asoundrc", config / "alsa" / "asoundrc")
    return _text(_CARDS), _served(), *map(_changed_ns, files)


def check_server() -> None:
    """Refuse to look at devices where the sound server stands still: PortAudio would wait for it, for ever.

    Raises
    ------
    SourceError
    """
    if _served() == _SILENT:
        raise SourceError("the sound server does not answer, so no device can be looked at; restart it or wait")


def _served() -> str:
    try:
        server = on_server()
    except (TimeoutError, ServerGoneError, ProtocolError):
        return _SILENT
    if server is None:
        return "none"
    server.close()
    return "there"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
