"""The programs printed in docs/protocol.md, extracted and run as a reader would."""

import json
import re
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import zmq
from test_metrics import CONTRACT

from detectd.config.stream_config import SOURCES
from detectd.streams.wire import Flag, Refusal, WireBlock, blocks_of, samples_of

PAGE = Path(__file__).parent.parent / "docs" / "protocol.md"
TIMEOUT_MS = 10_000


@pytest.fixture
def program(tmp_path):
    def extract(name):
        (text,) = re.findall(rf"^```python {name}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        assert len([line for line in text.splitlines() if line.strip()]) <= 20  # lines
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return path

    return extract


@pytest.fixture
def bound():
    """Bind a socket of a kind, with a free port; returns it and its endpoint."""
    with zmq.Context() as context:
        sockets = []

        def bind(kind):
            socket = context.socket(kind)
            sockets.append(socket)
            socket.linger = 0
            socket.rcvtimeo = TIMEOUT_MS
            return socket, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"

        yield bind
        for socket in sockets:
            socket.close()


@pytest.mark.parametrize("channels", [1, 2])
def test_sender_sends_every_frame_once(program, bound, tmp_path, channels):
    rng = np.random.default_rng(1)
    frames = rng.integers(-(2**15), 2**15, (4321, channels), dtype=np.int16)
    with wave.open(str(tmp_path / "clip.wav"), "wb") as file:
        file.setparams((channels, 2, 8000, 0, "NONE", ""))
        file.writeframes(frames.tobytes())
    pull, endpoint = bound(zmq.PULL)
    subprocess.run([sys.executable, program("sender"), endpoint, "yard", tmp_path / "clip.wav"], check=True, timeout=30)
    blocks = []
    while not blocks or not blocks[-1].header.flags & Flag.END:
        blocks += blocks_of([memoryview(pull.recv())])
    assert all(isinstance(block, WireBlock) for block in blocks)
    assert [block.header.seq for block in blocks] == list(range(len(blocks)))
    assert {(block.header.stream_id, block.header.epoch) for block in blocks} == {("yard", blocks[0].header.epoch)}
    starts = np.cumsum([0] + [block.header.n_frames for block in blocks])
    assert [block.header.first_sample for block in blocks] == starts[:-1].tolist()
    assert np.array_equal(np.concatenate([samples_of(block) for block in blocks]), frames)


def test_subscriber_prints_events_and_what_it_missed(program, bound):
    pub, endpoint = bound(zmq.XPUB)

    def publish(topic, **message):
        pub.send_multipart([topic.encode(), json.dumps({"run_id": "r", **message}).encode()])

    def event(seq, state):
        publish("event/a/0/pump", seq=seq, state=state, start_time="2026-01-01T00:00:00Z", peak_score=1.5)

    with subprocess.Popen(
        [sys.executable, program("subscriber"), endpoint], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert pub.recv() == b"\x01"
        event(4, "start")
        event(5, "update")
        event(8, "end")
        publish("heartbeat", seq={"event/a/0/pump": 10, "event/b/pump": 3})
        publish("heartbeat", seq={"event/a/0/pump": 10, "event/b/pump": 4, "event/new/pump": 2})
        lines = [reader.stdout.readline().strip() for _ in range(7)]
        reader.kill()
    assert lines == [
        "start event/a/0/pump 2026-01-01T00:00:00Z 1.5",
        "update event/a/0/pump 2026-01-01T00:00:00Z 1.5",
        "lost 2 of event/a/0/pump",
        "end event/a/0/pump 2026-01-01T00:00:00Z 1.5",
        "lost 2 of event/a/0/pump",
        "lost 1 of event/b/pump",
        "lost 2 of event/new/pump",
    ]


def test_the_page_names_every_metric_and_every_reason():
    page = PAGE.read_text()
    for name, kind in CONTRACT.items():
        total = "_total" if kind == "counter" else ""
        assert re.search(rf"^\| `{name}{total}(\{{[a-z,]+\}})?` \| {kind} \|", page, re.MULTILINE), name
    table = page[page.index("### Why a block is refused") :]
    assert all(f"`{reason}`" in table for reason in Refusal)


def test_readme_names_every_key_of_a_stream():
    readme = (PAGE.parent.parent / "README.md").read_text()
    assert all(f"`{key}`" in readme for kind in SOURCES.values() for key in kind.keys)
