"""Blocks of one epoch of a source, numbered."""

from detectd.dsp.audio import SampleFormat
from detectd.streams.wire import Flag, Header, pack


class Epoch:
    """Numbers the blocks between a source's beginning and its end.

    Parameters
    ----------
    number : int
        Random, so that no two epochs are taken for one.
    """

    def __init__(self, stream_id: str, rate_hz: int, channels: int, sample_format: SampleFormat, number: int) -> None:
        self._header = Header(
            flags=0,
            sample_format=sample_format,
            channels=channels,
            rate_hz=rate_hz,
            n_frames=0,
            stream_id=stream_id,
            epoch=number,
            seq=0,
            first_sample=0,
        )
        self._frame_bytes = channels * sample_format.width
        self._seq = 0

    def block(
        self, payload: bytes, first_sample: int, *, flags: int = 0, t_first_utc_ns: int = 0, t_err_ns: int = 0
    ) -> bytes:
        """The next block as a message."""
        header = self._header._replace(
            flags=flags,
            n_frames=len(payload) // self._frame_bytes,
            seq=self._seq,
            first_sample=first_sample,
            t_first_utc_ns=t_first_utc_ns,
            t_err_ns=t_err_ns,
        )
        self._seq += 1
        return pack(header, payload)

    def end(self, first_sample: int) -> bytes:
        """The message that says that the source is over."""
        return self.block(b"", first_sample, flags=Flag.END)
