"""Messages of the native protocol of PulseAudio, which PipeWire speaks too: the few that say who records what. Pure.

Spoken at version 13, which every server of the last fifteen years understands and which has all that is asked here.
"""

import struct
from typing import NamedTuple

VERSION = 13
COOKIE_BYTES = 256
DESCRIPTOR = struct.Struct(">IIIII")
"""In front of each message: its length, a channel (all ones: no audio) and three words for audio."""

_NO_AUDIO = 0xFFFF_FFFF
ERROR, REPLY, AUTH, SET_CLIENT_NAME = 0, 2, 8, 9
GET_SOURCE_INFO, GET_SOURCE_OUTPUT_INFO, GET_SOURCE_OUTPUT_INFO_LIST = 23, 31, 32
SUBSCRIBE, SUBSCRIBE_EVENT = 35, 66
SOURCE_OUTPUTS = 0x08
"""Subscription to changes of streams that record."""

_KIND, _CHANGED_SOURCE_OUTPUT = 0x3F, 0x13
NO_ENTITY = 5

BITS = {0: 8, 1: 8, 2: 8, 3: 16, 4: 16, 5: 32, 6: 32, 7: 32, 8: 32, 9: 24, 10: 24, 11: 24, 12: 24}
"""Bits of a sample by the protocol's number of its format."""


class SourceOutput(NamedTuple):
    """A stream that records, and the source it is on."""

    number: int
    source: int
    properties: dict[str, str]


class Source(NamedTuple):
    number: int
    name: str
    description: str
    rate_hz: int
    channels: int
    bits: int


class Message(NamedTuple):
    command: int
    tag: int
    body: bytes


class ProtocolError(ValueError):
    """What came is not of the protocol."""


def request(command: int, tag: int, body: bytes = b"") -> bytes:
    """One request, ready to be sent."""
    payload = u32(command) + u32(tag) + body
    return DESCRIPTOR.pack(len(payload), _NO_AUDIO, 0, 0, 0) + payload


def u32(value: int) -> bytes:
    """A number, tagged."""
    return b"L" + struct.pack(">I", value)


def text(value: str | None) -> bytes:
    """A string or none, tagged."""
    return b"N" if value is None else b"t" + value.encode() + b"\0"


def arbitrary(value: bytes) -> bytes:
    """Bytes, tagged."""
    return b"x" + struct.pack(">I", len(value)) + value


def properties(values: dict[str, str]) -> bytes:
    """A property list, tagged."""
    entries = (text(key) + u32(len(value) + 1) + arbitrary(value.encode() + b"\0") for key, value in values.items())
    return b"P" + b"".join(entries) + b"N"


def message_of(payload: bytes) -> Message:
    """Take a message apart.

    Raises
    ------
    ProtocolError
    """
    reader = _Reader(payload)
    return Message(reader.u32(), reader.u32(), reader.rest())


def number_of(body: bytes) -> int:
    """The number that a body begins with."""
    return _Reader(body).u32()


def changed_source_output(body: bytes) -> int | None:
    """Number of the recording stream that an event tells a change of; None if it tells something else."""
    reader = _Reader(body)
    event, index = reader.u32(), reader.u32()
    return index if event & _KIND == _CHANGED_SOURCE_OUTPUT else None


def source_outputs_of(body: bytes) -> list[SourceOutput]:
    """All streams of an answer.

    Raises
    ------
    ProtocolError
    """
    reader = _Reader(body)
    found = []
    while reader.more:
        index = reader.u32()
        reader.text()  # its name
        reader.u32(), reader.u32()  # module, client
        source = reader.u32()
        reader.sample_spec()
        reader.channel_map()
        reader.usec(), reader.usec()
        reader.text(), reader.text()  # how it is resampled, driver
        found.append(SourceOutput(index, source, reader.properties()))
    return found


def source_of(body: bytes) -> Source:
    """The source of an answer.

    Raises
    ------
    ProtocolError
    """
    reader = _Reader(body)
    index, name, description = reader.u32(), reader.text(), reader.text()
    sample_format, channels, rate_hz = reader.sample_spec()
    return Source(index, name, description, rate_hz, channels, BITS.get(sample_format, 32))


class _Reader:
    """Reads tagged values one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def rest(self) -> bytes:
        return self._data[self._at :]

    def u32(self) -> int:
        self._expect(b"L")
        return int(self._unpack(">I"))

    def usec(self) -> int:
        self._expect(b"U")
        return int(self._unpack(">Q"))

    def text(self) -> str:
        if self._tag() == b"N":
            return ""
        self._at -= 1
        self._expect(b"t")
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise ProtocolError("a string without an end")
        value = self._data[self._at : end]
        self._at = end + 1
        return value.decode(errors="replace")

    def sample_spec(self) -> tuple[int, int, int]:
        self._expect(b"a")
        return int(self._unpack("B")), int(self._unpack("B")), int(self._unpack(">I"))

    def channel_map(self) -> None:
        self._expect(b"m")
        self._skip(int(self._unpack("B")))

    def properties(self) -> dict[str, str]:
        self._expect(b"P")
        values = {}
        while key := self.text():
            self.u32()
            self._expect(b"x")
            length = int(self._unpack(">I"))
            begin = self._at
            self._skip(length)
            values[key] = self._data[begin : self._at].rstrip(b"\0").decode(errors="replace")
        return values

    def _tag(self) -> bytes:
        self._skip(1)
        return self._data[self._at - 1 : self._at]

    def _expect(self, tag: bytes) -> None:
        if (found := self._tag()) != tag:
            raise ProtocolError(f"{found!r} where {tag!r} should be")

    def _unpack(self, form: str) -> int:
        begin = self._at
        self._skip(struct.calcsize(form))
        return int(struct.unpack_from(form, self._data, begin)[0])

    def _skip(self, n_bytes: int) -> None:
        if self._at + n_bytes > len(self._data):
            raise ProtocolError("a message that is too short")
        self._at += n_bytes
