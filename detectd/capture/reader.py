"""The thread that reads a device, and does little else: it opens it, reads, stamps the time and hands over.

It never gives up: what cannot be opened is tried again, for ever.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from detectd.capture.ledger import Reading
from detectd.capture.opener import NOT_OPENED, Opener
from detectd.capture.pin import Pin
from detectd.capture.portaudio import DeviceError, Microphone
from detectd.dsp.audio import SampleFormat

BLOCK_S = 0.1
SILENT_S = 1.0
"""A device that gives nothing for that long has stopped."""

NO_AUDIO = "no audio comes"
_WAITING_S = 10.0
_RETRY_S = (0.0, 0.1, 0.3, 0.6)
_PROVEN_S = 2.0
_DEPTH_SHARE = 0.8
_SERVER_DEPTH_S, _SERVER_DEPTH_BYTES = 3.0, 1 << 21
"""What a sound server and its client keep for a reader that stands still, by half of what was measured."""

_MOST_TICK_S = 0.2


class Running:
    """How long this process was able to run; the time in which it was stopped is no silence of its device."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._ticked_s = time.monotonic()

    def tick(self) -> None:
        """Come by at least every 0.2 s; one thread does."""
        now_s = time.monotonic()
        self.seconds += min(now_s - self._ticked_s, _MOST_TICK_S)
        self._ticked_s = now_s


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream was opened; its readings follow."""

    name: str
    rate_hz: int
    channels: int
    sample_format: SampleFormat
    pin: Pin | None
    note: str


@dataclass(frozen=True, slots=True)
class Closed:
    """There are no more readings of that stream, or there is none to be had."""

    reason: str


Item: TypeAlias = Opened | Reading | Closed


class Handover:
    """What was read and not yet looked at: bounded, for whoever looks may stand still and the reading must not.

    Attributes
    ----------
    dropped_frames : int
        The oldest make room.
    """

    def __init__(self) -> None:
        self.dropped_frames = 0
        self._items: deque[Item] = deque()
        self._there = threading.Condition()

    def put(self, item: Item) -> None:
        """Add one."""
        with self._there:
            if len(self._items) > _WAITING_S / BLOCK_S:
                for index, oldest in enumerate(self._items):
                    if isinstance(oldest, Reading):
                        del self._items[index]
                        self.dropped_frames += oldest.n_frames
                        break
            self._items.append(item)
            self._there.notify()

    def take(self, timeout_s: float) -> list[Item]:
        """All there is, waiting for the first."""
        with self._there:
            self._there.wait_for(lambda: self._items, timeout_s)
            items = list(self._items)
            self._items.clear()
        return items


class Reader:
    """Reads one device for ever.

    Attributes
    ----------
    calling_since_s : float or None
        Since when PortAudio has not returned, by the clock of `running`.
    """

    def __init__(self, opener: Opener, handover: Handover, running: Running) -> None:
        self.calling_since_s: float | None = None
        self._opener = opener
        self._handover = handover
        self._running = running
        self._rejected = ""
        self._stop = threading.Event()
        # A call of PortAudio may never return; nobody waits for this thread.
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it goes on; without it nothing is recorded."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stop.set()

    def reject(self, reason: str) -> None:
        """Have the stream closed, and the device opened anew."""
        self._rejected = reason

    @property
    def rejected(self) -> bool:
        """Whether a stream has been rejected and is not closed yet."""
        return bool(self._rejected)

    @property
    def pinned(self) -> str | None:
        """The source of the sound server that the device is."""
        return self._opener.pinned

    def _run(self) -> None:
        tries = 0
        while not self._stop.is_set():
            self._rejected = ""
            self.calling_since_s = began_s = self._running.seconds
            try:
                microphone, pin, note = self._opener.open()
            except NOT_OPENED as error:
                self._handover.put(Closed(str(error)))
            else:
                name = microphone.device.name
                self._handover.put(
                    Opened(name, microphone.rate_hz, microphone.channels, microphone.sample_format, pin, note)
                )
                self._handover.put(Closed(self._read(microphone, pin)))
                self.calling_since_s = self._running.seconds
                microphone.close()
            self.calling_since_s = None
            tries = 0 if self._running.seconds - began_s > _PROVEN_S else tries + 1
            self._stop.wait(_RETRY_S[min(tries, len(_RETRY_S) - 1)])

    def _read(self, microphone: Microphone, pin: Pin | None) -> str:
        """Read until the device fails or is rejected; returns why it ended."""
        n_frames = round(BLOCK_S * microphone.rate_hz)
        depth_s = _DEPTH_SHARE * microphone.buffer_s
        if pin:
            bytes_s = microphone.rate_hz * microphone.channels * microphone.sample_format.width
            depth_s = max(depth_s, min(_SERVER_DEPTH_S, _SERVER_DEPTH_BYTES / bytes_s))
        running = self._running
        broken, begun = False, False
        at_s, ran_s = time.monotonic(), running.seconds
        try:
            while not (self._stop.is_set() or self._rejected):
                self.calling_since_s = running.seconds
                payload, waiting = microphone.read(n_frames)
                self.calling_since_s = None
                before_s, before_ran_s = at_s, ran_s
                at_s, ran_s = time.monotonic(), running.seconds
                took_s = ran_s - before_ran_s
                # What is slow to begin has lost nothing yet.
                if (took_s > SILENT_S and begun) or at_s - before_s - took_s > depth_s:
                    # Where in what is left the loss is cannot be known; from here on it can.
                    if pin:
                        return NO_AUDIO  # and open it anew: to a server this would be another stream
                    self.calling_since_s = running.seconds
                    microphone.restart()
                    at_s, ran_s, broken = time.monotonic(), running.seconds, True
                    continue
                offset_ns = time.time_ns() - time.monotonic_ns()
                self._handover.put(Reading(payload, n_frames, waiting, at_s, offset_ns, broken))
                broken, begun = False, True
        except DeviceError as error:
            return self._rejected or str(error)
        return self._rejected or "stopped"
