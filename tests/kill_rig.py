"""A daemon that is killed and started again in one place, with a sender and a subscriber that outlive it."""

import collections
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import zmq
from daemon_process import ENVIRONMENT, config, until
from plain_wire import Source
from sounds import recording

READY_S = 60
SPEED = 12
BLOCK_S = 0.1
N_STREAMS = 8
ENDPOINTS = """
[ingest]
bind = ["ipc://in"]
[publish]
events = "ipc://out"
replay = "ipc://again"
[metrics]
bind = "127.0.0.1:0"
[journal]
max_age_days = 1
"""


class Collector:
    """Everything that comes over PUB, as bytes, from whatever daemon is there."""

    def __init__(self, endpoint):
        self.messages = []
        """(topic, body) of events, in order."""
        self.runs = collections.Counter()
        """Heartbeats by run."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect, args=(endpoint,))
        self._thread.start()

    def close(self):
        self._stop.set()
        self._thread.join()

    def _collect(self, endpoint):
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.linger, socket.rcvhwm = 0, 0
            socket.reconnect_ivl = 20
            socket.connect(endpoint)
            socket.subscribe("")
            while not self._stop.is_set():
                if not socket.poll(50):
                    continue
                topic, body = socket.recv_multipart()
                if topic == b"heartbeat":
                    self.runs[json.loads(body)["run_id"]] += 1
                else:
                    self.messages.append((topic.decode(), body.decode()))


class EndlessSender:
    """Streams in which tones come and go, faster than real time, whoever listens."""

    def __init__(self, endpoint, seed):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(endpoint, seed))
        self._thread.start()

    def close(self):
        self._stop.set()
        self._thread.join()

    def _send(self, endpoint, seed):
        sound = recording(1.0, 2.5, 1.5, seed=seed)
        length = round(BLOCK_S * 8000)
        blocks = [sound[at : at + length] for at in range(0, len(sound), length)]
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.linger, socket.sndhwm, socket.reconnect_ivl = 0, 20, 20
            socket.connect(endpoint)
            sources = [Source(f"s{number}") for number in range(N_STREAMS)]
            at = np.arange(N_STREAMS) * len(blocks) // N_STREAMS  # each at another place
            while not self._stop.wait(BLOCK_S):
                for _ in range(SPEED):
                    at = (at + 1) % len(blocks)
                    parts = [source.next(blocks[place]) for source, place in zip(sources, at, strict=True)]
                    if socket.poll(100, zmq.POLLOUT):
                        socket.send(b"".join(part for block in parts for part in block))


class Rig:
    """A folder with a configuration, a sender and a subscriber; daemons come and go."""

    def __init__(self, seed, extra=""):
        # The names of sockets have little room.
        self._folder = tempfile.TemporaryDirectory(prefix="kill-", dir="/tmp")
        self.folder = Path(self._folder.name)
        text = config('[[stream]]\nid = "*"\nsource = "zmq"\n', hold_s="0.25", min_duration_s="0")
        (self.folder / "config.toml").write_text(ENDPOINTS + extra + text[text.index("[[stream]]") :])
        self.state = self.folder / "var"
        self.process = None
        self.log = self.folder / "stderr.txt"
        self.collector = Collector(self.endpoint("out"))
        self.sender = EndlessSender(self.endpoint("in"), seed)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sender.close()
        self.collector.close()
        if self.process:
            self.process.kill()
            self.process.wait()
        print(self.log.read_text() if self.log.exists() else "never started", file=sys.stderr)
        self._folder.cleanup()

    def endpoint(self, name):
        return f"ipc://{self.folder}/{name}"

    def start(self):
        """Start a daemon; returns at once."""
        self._said = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("a") as log:
            command = [sys.executable, "-m", "detectd", "run", "--config", self.folder / "config.toml"]
            self.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, env=ENVIRONMENT)

    @property
    def said(self):
        """What the daemon that runs has said so far."""
        return self.log.read_text()[self._said :]

    def ready(self):
        assert until(lambda: "ready" in self.said or self.process.poll() is not None, READY_S), "no daemon"
        assert self.process.poll() is None, self.said

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        return self.process.wait(20)

    def ask(self, request):
        """Messages that replay gives, and its last part."""
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.linger, socket.rcvtimeo = 0, 20_000
            socket.connect(self.endpoint("again"))
            socket.send(json.dumps(request).encode())
            *messages, done = socket.recv_multipart()
        return [message.decode() for message in messages], json.loads(done)
