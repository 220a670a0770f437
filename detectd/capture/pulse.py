"""A connection to the sound server, PulseAudio or PipeWire, that asks which source a stream is on.

Why no library: pulsectl does this too, and works under MemoryDenyWriteExecute (measured), but its calls block for as
long as the server stands still, and it needs libpulse, which not every way to a device brings along.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from detectd.capture.pulse_wire import (
    AUTH,
    COOKIE_BYTES,
    DESCRIPTOR,
    ERROR,
    GET_SOURCE_INFO,
    GET_SOURCE_OUTPUT_INFO,
    GET_SOURCE_OUTPUT_INFO_LIST,
    NO_ENTITY,
    REPLY,
    SET_CLIENT_NAME,
    SOURCE_OUTPUTS,
    SUBSCRIBE,
    SUBSCRIBE_EVENT,
    VERSION,
    Message,
    Source,
    SourceOutput,
    arbitrary,
    changed_source_output,
    message_of,
    number_of,
    properties,
    request,
    source_of,
    source_outputs_of,
    text,
    u32,
)

_TCP_PORT = 4713
_LARGEST = 1 << 22
_RECEIVED = 1 << 16


class ServerGoneError(ConnectionError):
    """The server ended the connection."""


class NoServerError(ConnectionError):
    """There is no sound server, at least none that would be asked here."""


class PulseServer:
    """One connection; used by one thread at a time.

    Attributes
    ----------
    changed : set of int
        Recording streams that the server told a change of since this was last emptied.

    Raises
    ------
    NoServerError
        If none listens.
    TimeoutError
        If it does not answer.
    """

    def __init__(self, timeout_s: float) -> None:
        self.changed: set[int] = set()
        self._tag = 0
        self._received = bytearray()
        self._socket = _connected(timeout_s)
        try:
            self._greet(timeout_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def source_outputs(self, timeout_s: float) -> list[SourceOutput]:
        """All streams that record."""
        return source_outputs_of(self._call(timeout_s, GET_SOURCE_OUTPUT_INFO_LIST).body)

    def source(self, index: int, timeout_s: float) -> Source | None:
        """A source; None if it is not there any more."""
        answer = self._call(timeout_s, GET_SOURCE_INFO, u32(index) + text(None))
        return None if answer.command == ERROR else source_of(answer.body)

    def ask_source_output(self, index: int) -> int:
        """Ask for one recording stream without waiting; returns the tag that the answer bears."""
        return self._send(GET_SOURCE_OUTPUT_INFO, u32(index))

    def answer(self, tag: int, timeout_s: float) -> Message | None:
        """The answer to a tag; None if it has not come in that time."""
        until_s = time.monotonic() + timeout_s
        while True:
            for message in self._messages():
                if message.tag == tag:
                    return message
            if not self._receive(until_s - time.monotonic()):
                return None

    def _greet(self, timeout_s: float) -> None:
        if self._call(timeout_s, AUTH, u32(VERSION) + arbitrary(_cookie())).command == ERROR:
            raise NoServerError("the sound server refuses the connection")
        self._call(timeout_s, SET_CLIENT_NAME, properties({"application.name": "detectd"}))
        self._call(timeout_s, SUBSCRIBE, u32(SOURCE_OUTPUTS))

    def _call(self, timeout_s: float, command: int, body: bytes = b"") -> Message:
        answer = self.answer(self._send(command, body), timeout_s)
        if answer is None:
            raise TimeoutError("the sound server does not answer")
        if answer.command == ERROR and number_of(answer.body) != NO_ENTITY and command != AUTH:
            raise ServerGoneError(f"the sound server refuses request {command}, error {number_of(answer.body)}")
        return answer

    def _send(self, command: int, body: bytes) -> int:
        self._tag += 1
        # Who waits for the answer finds that the server has gone.
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(request(command, self._tag, body))
        return self._tag

    def _receive(self, timeout_s: float) -> bool:
        if not select.select([self._socket], [], [], max(0.0, timeout_s))[0]:
            return False
        try:
            data = self._socket.recv(_RECEIVED)
        except ConnectionError:
            data = b""
        if not data:
            raise ServerGoneError("the sound server has gone")
        self._received += data
        return True

    def _messages(self) -> Iterator[Message]:
        """Answers among what was received; events are noted."""
        while len(self._received) >= DESCRIPTOR.size:
            length = DESCRIPTOR.unpack_from(self._received)[0]
            if length > _LARGEST:
                raise ServerGoneError("the sound server speaks another protocol")
            end = DESCRIPTOR.size + length
            if len(self._received) < end:
                return
            message = message_of(bytes(self._received[DESCRIPTOR.size : end]))
            del self._received[:end]
            if message.command == SUBSCRIBE_EVENT:
                index = changed_source_output(message.body)
                if index is not None:
                    self.changed.add(index)
            elif message.command in {REPLY, ERROR}:
                yield message


def _connected(timeout_s: float) -> socket.socket:
    """Connect to the first server that listens."""
    for family, address in _addresses():
        connection = socket.socket(family)
        connection.settimeout(timeout_s)
        try:
            connection.connect(address)
        except TimeoutError:
            connection.close()
            raise
        except OSError:
            connection.close()
        else:
            return connection
    raise NoServerError("no sound server listens")


def _addresses() -> Iterator[tuple[int, str | tuple[str, int]]]:
    """Where the server may listen, in the order in which its own clients look."""
    named = os.environ.get("PULSE_SERVER", "").split()
    for entry in named:
        where = entry.partition("}")[2] if entry.startswith("{") else entry
        if where.startswith(("unix:", "/")):
            yield socket.AF_UNIX, where.removeprefix("unix:")
        else:
            kind, _, rest = where.partition(":") if where.startswith("tcp") else ("tcp", "", where)
            host, _, port = rest.rpartition(":") if rest.rpartition(":")[2].isdigit() else (rest, "", "")
            family = socket.AF_INET6 if kind == "tcp6" else socket.AF_INET
            yield family, (host.strip("[]"), int(port or _TCP_PORT))
    if named:
        return
    if folder := os.environ.get("PULSE_RUNTIME_PATH"):
        yield socket.AF_UNIX, f"{folder}/native"
    if folder := os.environ.get("XDG_RUNTIME_DIR"):
        yield socket.AF_UNIX, f"{folder}/pulse/native"
    for folder in (f"/run/user/{os.getuid()}/pulse", "/run/pulse", "/var/run/pulse"):
        yield socket.AF_UNIX, f"{folder}/native"


def _cookie() -> bytes:
    """The secret that a user and the server share; a server on this machine knows its user without."""
    home = os.environ.get("HOME", "/")
    config = os.environ.get("XDG_CONFIG_HOME", f"{home}/.config")
    for path in (os.environ.get("PULSE_COOKIE"), f"{config}/pulse/cookie", f"{home}/.pulse-cookie"):
        if path:
            with contextlib.suppress(OSError):
                cookie = Path(path).read_bytes()
                if len(cookie) == COOKIE_BYTES:
                    return cookie
    return bytes(COOKIE_BYTES)
