"""A sender and a subscriber written from docs/protocol.md alone: nothing of detectd is imported here."""

import json
import secrets
import struct
import threading
import time
import zlib

import numpy as np
import zmq

HEADER = struct.Struct("<4sBBBBII32sQQQqII")
DISCONTINUITY, END, CRC = 1, 2, 4
S16, S24, S32, F32 = 1, 2, 3, 4
FORMATS = (S16, S24, S32, F32)


def payload_of(samples, sample_format):
    """Frames, shape (n, channels), as bytes of a format."""
    if sample_format == F32:
        return samples.astype("<f4").tobytes()
    bits = {S16: 16, S24: 24, S32: 32}[sample_format]
    whole = np.clip(np.rint(samples * 2.0 ** (bits - 1)), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    if sample_format == S24:
        return b"".join(int(value).to_bytes(3, "little", signed=True) for value in whole.ravel())
    return whole.astype(f"<i{bits // 8}").tobytes()


class Source:
    """One source: its epoch and where it stands in it."""

    def __init__(self, stream, rate_hz=8000, channels=1, sample_format=S16):
        self.stream, self.rate_hz, self.channels, self.sample_format = stream, rate_hz, channels, sample_format
        self.begin()

    @property
    def streams(self):
        """Ids of its streams."""
        return [self.stream] if self.channels == 1 else [f"{self.stream}/{c}" for c in range(self.channels)]

    def begin(self, position=0):
        """Begin a new epoch."""
        self.epoch, self.seq, self.position = secrets.randbits(64), 0, position

    def next(self, samples, flags=0, **changes):
        """Header and payload of the block that follows, and move on; samples of shape (n,) go to every channel."""
        parts = self.block(samples, self.position, flags, **changes)
        self.seq += 1
        self.position += len(samples)
        return parts

    def block(self, samples, first_sample, flags=0, **changes):
        """Header and payload of any block of this source; `changes` replace fields of the header."""
        if samples.ndim == 1:
            samples = np.repeat(samples[:, None], self.channels, axis=1)
        payload = changes.pop("payload", None)
        if payload is None:
            payload = payload_of(samples, self.sample_format)
        fields = {
            "magic": b"DAU1",
            "version": 1,
            "flags": flags,
            "format": self.sample_format,
            "channels": self.channels,
            "rate_hz": self.rate_hz,
            "n_frames": len(samples),
            "stream_id": self.stream.encode(),
            "epoch": self.epoch,
            "seq": self.seq,
            "first_sample": first_sample,
            "t_first_utc_ns": 0,
            "t_err_ns": 0,
            "crc32": zlib.crc32(payload) if flags & CRC else 0,
        }
        assert changes.keys() <= fields.keys()
        return HEADER.pack(*{**fields, **changes}.values()), payload

    def blocks(self, samples, length_s=0.1):
        """All of a recording, the last block flagged as the end."""
        length = round(length_s * self.rate_hz)
        starts = range(0, len(samples), length)
        return [self.next(samples[at : at + length], END if at == starts[-1] else 0) for at in starts]


class Push:
    """A PUSH socket to the daemon; what it was given goes out before it closes."""

    def __init__(self, endpoint):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        # Little may wait here: a daemon that reads no more is felt at once.
        self._socket.sndhwm, self._socket.sndtimeo = 100, 20_000
        self._socket.connect(endpoint)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close(linger=20_000)
        self._context.term()

    def send(self, *blocks):
        """Blocks, each header and payload, in one message of one part."""
        self._socket.send(b"".join(part for block in blocks for part in block))

    def send_raw(self, message):
        self._socket.send(message)

    def send_multipart(self, parts):
        self._socket.send_multipart(parts)

    def play(self, blocks, block_s=0.1):
        """One block a message, in real time; returns when the first sample was due to be captured."""
        began_s = time.monotonic()
        for number, block in enumerate(blocks, start=1):
            time.sleep(max(0.0, began_s + number * block_s - time.monotonic()))
            self.send(block)
        return began_s


class Subscriber:
    """Collects all that a daemon publishes, from when the constructor returns."""

    def __init__(self, endpoint):
        self.messages = []
        """(when it arrived, topic, message)"""
        self._endpoint = endpoint
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()
        # The first heartbeat says that the subscription is in force.
        assert self.wait(lambda: self.messages), f"no heartbeat from {endpoint}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def of(self, stream, *states):
        """Event messages of a stream so far."""
        topic = f"event/{stream}/"
        found = [message for _, name, message in self.messages if name.startswith(topic)]
        return [message for message in found if not states or message["state"] in states]

    def arrival_s(self, message):
        return next(arrived_s for arrived_s, _, other in self.messages if other is message)

    def heartbeats(self):
        return [message for _, topic, message in self.messages if topic == "heartbeat"]

    def wait_for(self, stream, state, n=1, timeout_s=20):
        """The first `n` messages of a state; fails with all that came where they do not."""
        self.wait(lambda: len(self.of(stream, state)) >= n, timeout_s)
        found = self.of(stream, state)
        assert len(found) >= n, f"{len(found)} of {n} {state} messages of {stream}; came: {self.of(stream)}"
        return found[:n]

    def wait(self, condition, timeout_s=20):
        with self._arrived:
            return self._arrived.wait_for(condition, timeout_s)

    def _collect(self):
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.linger, socket.rcvhwm = 0, 0
            socket.connect(self._endpoint)
            socket.subscribe("")
            while not self._stop.is_set():
                if not socket.poll(50):
                    continue
                topic, body = socket.recv_multipart()
                with self._arrived:
                    self.messages.append((time.monotonic(), topic.decode(), json.loads(body)))
                    self._arrived.notify_all()
