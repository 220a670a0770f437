"""Which streams a configuration wants, and which are the daemon's own."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from detectd.config.config import Config, DeviceStream, FileStream, ZmqStream
from detectd.engine.watch import Detector
from detectd.service.plan import file_of
from detectd.streams.intake import Admission
from detectd.streams.wire import channel_ids

_REMEMBERED = 65_536


def admission(config: Config, detectors: Sequence[Detector]) -> Callable[[str, int, bool], Admission]:
    """Return ``admit(stream_id, rate_hz, local)`` of a configuration and its detectors."""

    @lru_cache(maxsize=_REMEMBERED)
    def admit(stream_id: str, rate_hz: int, local: bool) -> Admission:
        settings = config.stream_for(stream_id)
        if settings is None or isinstance(settings, ZmqStream) == local:
            return Admission(known=False)
        watching = [detector for detector in detectors if detector.watches(stream_id)]
        holds = not watching or any(rate_hz >= detector.min_rate_hz for detector in watching)
        return Admission(known=True, rate_holds=holds, mask_hz=settings.mask_hz)

    return admit


def own_streams(config: Config) -> dict[str, str]:
    """Ids of the streams that the daemon itself brings in, each with the id of its source.

    Raises
    ------
    ConfigError
        If a file cannot be read.
    """
    own: dict[str, str] = {}
    for stream in config.streams:
        if isinstance(stream, ZmqStream):
            continue
        channels = 1
        if isinstance(stream, FileStream):
            channels = file_of(config.path, stream).channels
        elif isinstance(stream, DeviceStream) and not stream.mix:
            channels = stream.channels
        own |= dict.fromkeys(channel_ids(stream.id, channels), stream.id)
    return own
