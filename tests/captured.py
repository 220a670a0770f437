"""`detectd capture` as a process of its own, and what it sends, read from docs/protocol.md alone."""

import collections
import contextlib
import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import typing
from pathlib import Path

import numpy as np
import zmq
from counter_audio import WORD, Run, runs_of
from daemon_process import REPOSITORY, until
from plain_wire import DISCONTINUITY, END, F32, HEADER, S16, S24, S32

WIDTH = {S16: 2, S24: 3, S32: 4, F32: 4}
# A gap is found by the clock, and the clock knows when sound arrives to some hundredths of a second: in steps of the
# microphone's 10 ms, and after what the machine had to do before.
GAP_WITHIN_S = 0.05
# Where in a read that came late something is missing nobody can tell: as much sound may stand on its other side.
PLACE_WITHIN_S = 0.2


class Header(typing.NamedTuple):
    """The 88 bytes before a payload."""

    magic: bytes
    version: int
    flags: int
    format: int
    channels: int
    rate_hz: int
    n_frames: int
    stream_id: bytes
    epoch: int
    seq: int
    first_sample: int
    t_first_utc_ns: int
    t_err_ns: int
    crc32: int


@dataclasses.dataclass(frozen=True)
class Arrived:
    """One block: when it came (monotonic, and UTC), its header, its samples (n, channels) int16."""

    at_s: float
    at_utc_ns: int
    header: Header
    samples: np.ndarray

    @property
    def ends(self):
        return bool(self.header.flags & END)

    @property
    def discontinuous(self):
        return bool(self.header.flags & DISCONTINUITY)


@dataclasses.dataclass(frozen=True)
class Heard:
    """A run of coded samples as it was sent: the epoch and the index there of its first sample."""

    epoch: int
    index: int
    n: int
    microphone: int
    position: int

    @property
    def end(self):
        return self.index + self.n

    @property
    def end_position(self):
        return self.position + self.n

    @property
    def offset(self):
        return self.position - self.index


def as_int16(payload, header):
    """Samples of a block, (n, channels) int16; fails where they are no whole steps of 16 bits."""
    if header.format == S16:
        found = np.frombuffer(payload, "<i2")
    elif header.format == S32:
        wide = np.frombuffer(payload, "<i4")
        assert not (wide & 0xFFFF).any()
        found = (wide >> 16).astype(np.int16)
    else:
        assert header.format == F32
        scaled = np.frombuffer(payload, "<f4") * 32768
        found = scaled.astype(np.int16)
        assert (found == scaled).all()
    return found.reshape(-1, header.channels)


def blocks_of(message):
    """Headers and payloads of one message."""
    while message:
        header = Header(*HEADER.unpack(message[: HEADER.size]))
        assert (header.magic, header.version) == (b"DAU1", 1)
        end = HEADER.size + header.n_frames * header.channels * WIDTH[header.format]
        assert len(message) >= end
        yield header, message[HEADER.size : end]
        message = message[end:]


class Receiver:
    """A PULL socket that keeps all that is sent to it, and can stand still.

    Parameters
    ----------
    path : Path or None, of a socket of its own instead of a port: there next to nothing waits on the way
    """

    def __init__(self, path=None):
        self.endpoint = f"ipc://{path}" if path else "tcp://127.0.0.1:*"
        self.arrived = collections.defaultdict(list)
        """Blocks of each stream."""
        self._read, self._stopped = threading.Event(), threading.Event()
        self._read.set()
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()
        assert self._bound.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()

    def stand_still(self):
        self._read.clear()

    def go_on(self):
        self._read.set()

    def wait_for(self, stream, n=1, timeout_s=30):
        """Wait until a stream has had `n` blocks."""
        until(lambda: len(self.arrived[stream]) >= n, timeout_s)
        assert len(self.arrived[stream]) >= n, f"{len(self.arrived[stream])} of {n} blocks of {stream}"

    def _receive(self):
        with zmq.Context() as context, context.socket(zmq.PULL) as socket:
            socket.linger, socket.rcvhwm = 0, 1
            socket.bind(self.endpoint)
            self.endpoint = socket.last_endpoint.decode()
            self._bound.set()
            while not self._stopped.is_set():
                if self._read.is_set() and socket.poll(50):
                    self._keep(b"".join(socket.recv_multipart()))
                else:
                    time.sleep(0.005)

    def _keep(self, message):
        for header, payload in blocks_of(message):
            stream = header.stream_id.rstrip(b"\0").decode()
            self.arrived[stream].append(Arrived(time.monotonic(), time.time_ns(), header, as_int16(payload, header)))


def check_headers(blocks):
    """What docs/protocol.md says of the blocks of one source, as they follow on each other."""
    for block in blocks:
        assert block.header.n_frames <= 10 * block.header.rate_hz
        assert block.header.crc32 == 0 or block.header.flags & 4
    for before, after in itertools.pairwise(blocks):
        if after.header.epoch == before.header.epoch:
            assert after.header.seq > before.header.seq
            assert after.header.first_sample >= before.header.first_sample + before.header.n_frames
            for field in ("rate_hz", "format", "channels"):
                assert getattr(after.header, field) == getattr(before.header, field)


def check_origin(runs, microphone, n):
    """All of `n` samples are of that microphone."""
    assert {run.microphone for run in runs} == {microphone}
    # Between two losses close to each other there may be too few samples to tell where they belong.
    assert 0 <= n - sum(run.n for run in runs) <= 3 * WORD * (len(runs) - 1)


def check_order(runs, rate_hz):
    """Nothing comes twice, nothing comes late, and within an epoch a gap is as long as what is missing."""
    for before, after in itertools.pairwise(runs):
        assert after.position >= before.end_position, (before, after)
        assert after.epoch != before.epoch or after.index >= before.end
    for before, after in itertools.pairwise(run for run in runs if run.n > PLACE_WITHIN_S * rate_hz):
        if after.epoch == before.epoch:
            assert abs(after.offset - before.offset) <= GAP_WITHIN_S * rate_hz, (before, after)


def heard(blocks, channel=0):
    """Runs of one channel, in the order of arrival; a run never crosses a gap or an epoch."""
    found = []
    for segment in _segments(blocks):
        first = segment[0].header
        samples = np.concatenate([block.samples[:, channel] for block in segment])
        found += [_placed(run, first) for run in runs_of(samples)]
    return found


def n_samples(blocks):
    return sum(block.header.n_frames for block in blocks)


def gaps(blocks):
    """Samples missing by the sender's own account: (index, n) of each gap within an epoch."""
    found = []
    for before, after in itertools.pairwise(blocks):
        end = before.header.first_sample + before.header.n_frames
        if after.header.epoch == before.header.epoch and after.header.first_sample != end:
            found.append((end, after.header.first_sample - end))
    return found


def _placed(run: Run, first):
    return Heard(first.epoch, first.first_sample + run.at, run.n, run.microphone, run.position)


def _segments(blocks):
    segment = []
    for block in blocks:
        if segment:
            last = segment[-1].header
            follows = block.header.first_sample == last.first_sample + last.n_frames
            if block.header.epoch != last.epoch or not follows:
                yield segment
                segment = []
        segment.append(block)
    if segment:
        yield segment


class CaptureProcess:
    """`python -m detectd capture`, in the environment of a sound server; its stderr is followed."""

    def __init__(self, server, device, stream, endpoint, *options):
        self.lines, self.stream = [], stream
        self._line_at_s = []
        command = [sys.executable, "-m", "detectd", "capture", "--device", device, "--stream", stream]
        self._process = subprocess.Popen(
            [*command, "--to", endpoint, *map(str, options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**server.environment, "PYTHONPATH": str(REPOSITORY)},
        )
        self._reader = threading.Thread(target=self._follow)
        self._reader.start()

    @property
    def stderr(self):
        return "".join(self.lines)

    @property
    def runs(self):
        return self._process.poll() is None

    @property
    def pid(self):
        return self._process.pid

    @property
    def recorder(self):
        """Process id of its one child."""
        until(lambda: children(self._process.pid))
        (child,) = children(self._process.pid)
        return child

    def said(self, pattern, timeout_s=20):
        """The first match in what it said; waits for it."""
        until(lambda: re.search(pattern, self.stderr) or not self.runs, timeout_s)
        found = re.search(pattern, self.stderr)
        assert found, f"no {pattern!r} from the capture of {self.stream}, which said:\n{self.stderr}"
        return found

    def said_after(self, since_s, text):
        """When it first said a text after a time (monotonic); infinity where it did not."""
        said = zip(self._line_at_s, list(self.lines), strict=False)
        return next((at_s for at_s, line in said if at_s > since_s and text in line), float("inf"))

    def interrupt(self):
        """SIGTERM; returns the exit code."""
        self._process.terminate()
        return self._process.wait(10)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def end(self):
        """Kill what still runs of it, its recorder too."""
        left = children(self._process.pid) if self.runs else []
        self.kill()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reader.join()
        self._process.stderr.close()
        print(f"-- capture of {self.stream}:\n{self.stderr}", file=sys.stderr)  # pytest shows it with a failure

    def _follow(self):
        for line in self._process.stderr:
            self._line_at_s.append(time.monotonic())
            self.lines.append(line)


def children(parent):
    """Ids of the processes that a process has started and that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, its_parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(its_parent) == parent and state != "Z":
                found.append(int(path.parent.name))
    return found


def alive(pid):
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
