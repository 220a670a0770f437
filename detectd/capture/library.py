"""Whether sound devices can be had at all, found out without loading PortAudio."""

import importlib.util
from ctypes.util import find_library

MISSING = "the PortAudio library is missing; on Debian and Ubuntu: apt install libportaudio2"


def what_is_missing() -> str | None:
    """What has to be installed before anything can be recorded, in one line."""
    if importlib.util.find_spec("sounddevice") is None:
        return "the Python package sounddevice is missing; pip install sounddevice"
    return None if find_library("portaudio") else MISSING
