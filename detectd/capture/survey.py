"""Tries the devices that a configuration names, before anything is recorded from them."""

from collections.abc import Sequence

from detectd.capture.opener import NOT_OPENED, Opener
from detectd.capture.pin import sign_streams
from detectd.capture.portaudio import load, quiet
from detectd.capture.supervisor import task_of
from detectd.capture.surroundings import check_server
from detectd.config.stream_config import DeviceStream
from detectd.errors import SourceError


def survey(streams: Sequence[DeviceStream]) -> list[str]:
    """What a person should know: which device is not there, does not do what is asked for, or is not what it seems.

    Nothing of it keeps a daemon from starting, for devices are waited for.

    Raises
    ------
    SourceError
        Without PortAudio.
    """
    try:
        check_server()
    except SourceError as error:
        return [str(error)]
    found = []
    mark = sign_streams()
    with quiet():
        load()
        for stream in streams:
            try:
                microphone, pin, note = Opener(task_of(stream, ""), mark).open()
            except NOT_OPENED as error:
                found.append(f"stream '{stream.id}' will wait for its device: {error}")
                continue
            microphone.close()
            if pin:
                pin.close()
            if note:
                found.append(f"stream '{stream.id}': device {microphone.device.name!r}: {note}")
    return found
