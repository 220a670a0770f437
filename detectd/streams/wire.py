"""The audio wire: 88-byte headers with their payloads, as bytes. What they mean, `detectd.streams.sequencer` says."""

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectd.dsp.audio import MAX_BLOCK_S, MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ, SampleFormat, decode

HEADER = struct.Struct("<4sBBBBII32sQQQqII")
_N_FRAMES, _N_FRAMES_AT = struct.Struct("<I"), 12
MAGIC = b"DAU1"
VERSION = 1
_STREAM_ID = re.compile(rb"[A-Za-z0-9._/-]+\Z")
_NAME_BYTES = 32
_WIDTHS = {int(sample_format): sample_format.width for sample_format in SampleFormat}
_EMPTY = memoryview(b"")
_LOUDEST = 1e6
"""Largest float sample accepted. The contract says [-1, 1); a sender that forgot to scale is heard, powers that
would overflow are not."""


class Flag:
    """Bits of the header's flags; plain numbers, for arithmetic on an enum costs more than all else of a block."""

    DISCONTINUITY = 1
    END = 2
    CRC = 4


class Refusal(StrEnum):
    """Why a block is refused; the values are the metric's label."""

    MAGIC = "magic"
    VERSION = "version"
    HEADER = "header"
    TRUNCATED = "truncated"
    OVERSIZED = "oversized"
    CRC = "crc"
    NON_FINITE = "non-finite"
    UNKNOWN_STREAM = "unknown-stream"
    RATE_TOO_LOW = "rate-too-low"
    TOO_MANY_STREAMS = "too-many-streams"
    TAKEN = "taken"
    FORMAT_CHANGED = "format-changed"
    LATE = "late"
    DUPLICATE = "duplicate"


class Header(NamedTuple):
    """A block's header, its fields in wire order after magic and version."""

    flags: int
    sample_format: int
    channels: int
    rate_hz: int
    n_frames: int
    stream_id: str
    epoch: int
    seq: int
    first_sample: int
    t_first_utc_ns: int = 0
    t_err_ns: int = 0
    crc32: int = 0


class WireBlock(NamedTuple):
    """A header and its payload, not yet looked into."""

    header: Header
    payload: memoryview


def pack(header: Header, payload: bytes) -> bytes:
    """One block as bytes; the crc is computed where the header's flags ask for it."""
    crc = zlib.crc32(payload) if header.flags & Flag.CRC else header.crc32
    name = header.stream_id.encode()
    fields = header._replace(stream_id="", crc32=crc)
    return HEADER.pack(MAGIC, VERSION, *fields[:5], name, *fields[6:]) + payload


def blocks_of(parts: Sequence[memoryview]) -> Iterator[WireBlock | Refusal]:
    """Cut a message into blocks.

    A part holds blocks one after another, or one header whose payload is the next part. A block of a length that
    cannot be known ends its part: what follows it cannot be found.
    """
    waiting = list(reversed(parts))
    while waiting:
        part = waiting.pop()
        while part:
            if len(part) < HEADER.size:
                yield Refusal.TRUNCATED if part[: len(MAGIC)] == MAGIC else Refusal.MAGIC
                break
            header, body = part[: HEADER.size], part[HEADER.size :]
            if not body and waiting and _N_FRAMES.unpack_from(header, _N_FRAMES_AT)[0]:
                body = waiting.pop()
            block, length = _block_at(header, body)
            yield block
            if length is None:
                break
            part = body[length:]


def _block_at(header: memoryview, following: memoryview) -> tuple[WireBlock | Refusal, int | None]:
    """Read a header and take its payload from what follows; with the payload's length, None where it is unknown."""
    magic, version, flags, sample_format, channels, rate_hz, n_frames, name, *rest = HEADER.unpack(header)
    if magic != MAGIC:
        return Refusal.MAGIC, None
    if version != VERSION:
        return Refusal.VERSION, None
    width = _WIDTHS.get(sample_format)
    if width is None or not 1 <= channels <= MAX_CHANNELS:
        return Refusal.HEADER, None
    length = n_frames * channels * width
    stream_id = _stream_id(name)
    if stream_id is None or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        return Refusal.HEADER, length
    if n_frames > MAX_BLOCK_S * rate_hz:
        return Refusal.OVERSIZED, length
    if length > len(following):
        return Refusal.TRUNCATED, None
    fields = Header(flags, sample_format, channels, rate_hz, n_frames, stream_id, *rest)
    return WireBlock(fields, following[:length]), length


def samples_of(block: WireBlock) -> NDArray[np.generic] | Refusal:
    """Decode a payload, shape ``(n_frames, channels)`` in the format's own numbers, or say why it is refused."""
    header, payload = block
    if header.flags & Flag.CRC and zlib.crc32(payload) != header.crc32:
        return Refusal.CRC
    samples = decode(payload, header.sample_format, header.channels)
    # NaN fails the comparison as well.
    if header.sample_format == SampleFormat.F32 and len(samples) and not np.abs(samples).max() <= _LOUDEST:
        return Refusal.NON_FINITE
    return samples


def is_stream_id(text: str) -> bool:
    """Whether a name fits the header and the contract."""
    name = text.encode()
    return len(name) <= _NAME_BYTES and _STREAM_ID.match(name) is not None


def channel_ids(source_id: str, channels: int) -> list[str]:
    """Stream ids of a source's channels, in order."""
    return [source_id] if channels == 1 else [f"{source_id}/{channel}" for channel in range(channels)]


@lru_cache(maxsize=16384)
def _stream_id(name: bytes) -> str | None:
    name = name.rstrip(b"\0")
    return name.decode() if _STREAM_ID.match(name) else None
