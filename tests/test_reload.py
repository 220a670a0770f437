"""A new configuration on SIGHUP: what it leaves alone goes on to the sample, what is wrong with it changes nothing."""

import json
import shutil
import threading
import time

import numpy as np
import pytest
from daemon_process import BUNDLE, ENDPOINTS, running, until
from plain_wire import END, Push, Source, Subscriber
from sounds import recording
from tiny_bundle import rewrite

from detectd.service.plan import lowest_rate_hz

RATE_HZ = 8000
BLOCK = RATE_HZ // 10
WINDOW_S, HOP_S = 2.0, 0.25
ANYBODY = '[[stream]]\nid = "*"\nsource = "zmq"\n'


def detector(name, bundle=BUNDLE, streams='["*"]', **keys):
    lines = {"name": f'"{name}"', "bundle": f'"{bundle}"', "streams": streams, **keys}
    return "[[detector]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())


def text(*tables):
    return ENDPOINTS.format(connect="[]") + "\n".join(tables)


STEADY = detector("steady")


class Reloaded:
    """A daemon whose configuration the tests write anew."""

    def __init__(self, process, folder):
        self.process, self.folder = process, folder
        self._n_done = 0

    def write(self, *tables):
        (self.folder / "config.toml").write_text(text(*tables))

    def reload(self, *tables, expected="reloaded:"):
        """Write, reload, wait; returns the line that says what came of it."""
        if tables:
            self.write(*tables)
        known = len(self.process.lines)
        self.process.hang_up()
        found = until(
            lambda: [
                line for line in self.process.lines[known:] if "INFO    reloaded:" in line or "reload refused" in line
            ]
        )
        assert found, f"nothing came of a reload; the daemon said:\n{self.process.stderr}"
        assert expected in found[0]
        return found[0]

    def gauge(self):
        return self.process.scrape().value("detectd_config_last_reload_successful")


@pytest.fixture
def daemon(tmp_path):
    with running(tmp_path, text(ANYBODY, STEADY)) as process:
        yield Reloaded(process, tmp_path)


def other_bundle(folder, label):
    """The shipped bundle with another label, hence another digest."""
    path = folder / f"{label}.detectd"
    shutil.copytree(BUNDLE, path)
    rewrite(path, lambda table: table.__setitem__("label", label))
    return path


class Senders:
    """Streams that are sent in real time, all from one thread; each has its tones for most of the time."""

    def __init__(self, endpoint, n_streams, seconds):
        self.sources = [Source(f"s{number}", RATE_HZ) for number in range(n_streams)]
        self._sounds = [recording(2, seconds - 6, 4, seed=number) for number in range(n_streams)]
        self._endpoint = endpoint
        self._thread = threading.Thread(target=self._send)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join()

    @property
    def alive(self):
        return self._thread.is_alive()

    def _send(self):
        n_blocks = len(self._sounds[0]) // BLOCK
        began_s = time.monotonic()
        with Push(self._endpoint) as push:
            for number in range(n_blocks):
                time.sleep(max(0.0, began_s + number / 10 - time.monotonic()))
                cut = slice(number * BLOCK, (number + 1) * BLOCK)
                flags = END if number == n_blocks - 1 else 0
                push.send(*(s.next(sound[cut], flags) for s, sound in zip(self.sources, self._sounds, strict=True)))


@pytest.mark.parametrize("seconds", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_reloads_every_second_under_load_cost_no_sample_and_no_window(daemon, seconds):
    retrained = other_bundle(daemon.folder, "retrained")
    variants = [
        [ANYBODY, STEADY, detector("second", threshold=3.0)],
        [ANYBODY, STEADY, detector("second", retrained)],
        [ANYBODY, detector("second", hop_s=0.5), STEADY, detector("third", retrained)],
        [ANYBODY, STEADY],
        ['[[stream]]\nid = "noise"\nsource = "synthetic"\n', ANYBODY, STEADY],
    ]
    n_streams = 16
    with Subscriber(daemon.process.events) as events, Senders(daemon.process.ingest, n_streams, seconds) as senders:
        n_reloads = 0
        began_s = time.monotonic()
        while senders.alive:
            if n_reloads % 7 == 6:
                daemon.reload(ANYBODY, detector("steady", threshold='"high"'), expected="reload refused")
            else:
                daemon.reload(*variants[n_reloads % len(variants)])
            n_reloads += 1
            time.sleep(max(0.0, began_s + n_reloads - time.monotonic()))
        assert n_reloads >= 0.6 * seconds
        daemon.reload(ANYBODY, STEADY)
        ids = [source.stream for source in senders.sources]
        ended = until(lambda: all(len(of(events, i, "steady", "end")) == 1 for i in ids))
        page = daemon.process.scrape()
    assert ended, {i: of(events, i, "steady", "end") for i in ids}
    for source in senders.sources:
        i = source.stream
        assert source.position == seconds * RATE_HZ
        assert page.audio("samples_total", i) == page.audio("analysed_samples_total", i) == source.position
        assert page.audio("gap_samples_total", i) == page.audio("overrun_samples_total", i) == 0
        (start,), (end,) = of(events, i, "steady", "start"), of(events, i, "steady", "end")
        assert start["event_id"] == end["event_id"]
        assert end["end_reason"] == "quiet"
        assert abs(end["duration_s"] - (seconds - 6)) < 2 * WINDOW_S
        assert page.value("detectd_events_total", stream=i, detector="steady") == 1
        second = of(events, i, "second", "end")
        assert {message["end_reason"] for message in second} <= {"reload", "quiet"}
        assert "reload" in {message["end_reason"] for message in second}
    assert not page.by_label("detectd_audio_rejected_blocks_total", "reason").total()
    # Of "noise", the synthetic stream that comes and goes, no window can be complete in its second or two.
    windows = n_streams * (1 + int((seconds - WINDOW_S) / HOP_S))
    assert page.value("detectd_windows_total", detector="steady") >= windows
    noise = page.value("detectd_windows_total", detector="steady") - windows
    assert noise <= n_reloads * 4
    assert "noise" not in page.by_label("detectd_stream_up", "stream")


def of(events, stream, detector, state):
    topic = f"event/{stream}/{detector}"
    return [message for _, name, message in events.messages if name == topic and message["state"] == state]


def test_what_is_wrong_is_said_and_what_ran_goes_on(daemon):
    broken = daemon.folder / "broken.detectd"
    shutil.copytree(BUNDLE, broken)
    graph = bytearray((broken / "backbone.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (broken / "backbone.onnx").write_bytes(graph)
    wrong = {
        "treshold": [ANYBODY, detector("steady", treshold=1)],
        "backbone.onnx": [ANYBODY, STEADY, detector("other", broken)],
        "nowhere.detectd": [ANYBODY, detector("steady", "nowhere.detectd")],
        "absent.wav": ['[[stream]]\nid = "f"\nsource = "file"\npath = "absent.wav"\n', STEADY],
        "publish.events": [ANYBODY, STEADY, '[publish]\nevents = "tcp://127.0.0.1:0"\n'],
    }
    assert daemon.gauge() == 1
    began = daemon.process.scrape().value("detectd_config_last_reload_timestamp_seconds")
    with Push(daemon.process.ingest) as push, Subscriber(daemon.process.events) as events:
        source = Source("yard", RATE_HZ)
        for named, tables in wrong.items():
            if named == "publish.events":
                (daemon.folder / "config.toml").write_text(
                    text(ANYBODY, STEADY).replace('events = "tcp://127.0.0.1:0"', 'events = "ipc://elsewhere"')
                )
                said = daemon.reload(expected="reload refused")
            else:
                said = daemon.reload(*tables, expected="reload refused")
            assert named in said
            assert daemon.gauge() == 0
        (daemon.folder / "config.toml").unlink()
        assert "config.toml" in daemon.reload(expected="reload refused")
        assert daemon.process.scrape().value("detectd_config_last_reload_timestamp_seconds") == began
        for block in source.blocks(recording(1, 4, 5)):
            push.send(block)
        (end,) = events.wait_for("yard", "end")
        assert end["detector"] == "steady"
    daemon.reload(ANYBODY, STEADY)
    assert daemon.gauge() == 1
    assert daemon.process.scrape().value("detectd_config_last_reload_timestamp_seconds") > began


def test_what_a_configuration_no_longer_names_goes(daemon):
    tables = ['[[stream]]\nid = "yard"\nsource = "zmq"\n', STEADY]
    with Push(daemon.process.ingest) as push, Subscriber(daemon.process.events) as events:
        yard, shed = Source("yard", RATE_HZ), Source("shed", RATE_HZ)
        sound = recording(1, 30, 0)
        for source in (yard, shed):
            for first in range(0, 8 * RATE_HZ, BLOCK):
                push.send(source.next(sound[first : first + BLOCK]))
        for source in (yard, shed):
            events.wait_for(source.stream, "start")
        daemon.reload(*tables)
        (end,) = events.wait_for("shed", "end")
        assert end["end_reason"] == "reload"
        streams = daemon.process.scrape().by_label("detectd_stream_up", "stream")
        assert dict(streams) == {"yard": 1}
        for source in (yard, shed):
            push.send(source.next(sound[8 * RATE_HZ : 9 * RATE_HZ]))
        daemon.process.wait_for_line("audio for shed is refused, unknown-stream")
        refused = ("detectd_audio_rejected_blocks_total", "reason")
        assert until(lambda: daemon.process.scrape().by_label(*refused)["unknown-stream"] == 1)
        assert not events.of("yard", "end")
        assert daemon.process.scrape().audio("samples_total", "yard") == 9 * RATE_HZ


def test_a_bundle_takes_the_place_of_another_between_two_windows(daemon):
    path = other_bundle(daemon.folder, "first")
    daemon.reload(ANYBODY, detector("steady", path))
    before = json.loads((path / "manifest.json").read_text())
    with Push(daemon.process.ingest) as push, Subscriber(daemon.process.events) as events:
        source, sound = Source("yard", RATE_HZ), recording(1, 24, 5)
        half = 12 * RATE_HZ
        for first in range(0, half, BLOCK):
            push.send(source.next(sound[first : first + BLOCK]))
        (start,) = events.wait_for("yard", "start")
        assert until(lambda: daemon.process.scrape().audio("pending_samples", "yard") < HOP_S * RATE_HZ)
        rewrite(path, lambda table: table.__setitem__("label", "second"))
        assert "~steady" in daemon.reload()
        for first in range(half, len(sound), BLOCK):
            push.send(source.next(sound[first : first + BLOCK], END if first + BLOCK >= len(sound) else 0))
        ends = events.wait_for("yard", "end", 2)
        starts = events.of("yard", "start")
    assert [end["end_reason"] for end in ends] == ["reload", "quiet"]
    assert [message["label"] for message in starts] == ["first", "second"]
    assert starts[0]["bundle"] == ends[0]["bundle"] != starts[1]["bundle"] == ends[1]["bundle"]
    assert before["label"] == "first"
    assert start == starts[0]
    # Windows of both together are those of one detector that was never exchanged.
    assert daemon.process.scrape().value("detectd_windows_total", detector="steady") == 1 + (30 - WINDOW_S) / HOP_S
    hop = round(HOP_S * RATE_HZ)
    assert (starts[1]["start_sample"] - starts[0]["start_sample"]) % hop == 0
    last = ends[0]["end_sample"] + 1 - round(WINDOW_S * RATE_HZ)
    assert starts[1]["start_sample"] == last + hop, "the very next window"
    infos = [dict(labels) for name, *labels in daemon.process.scrape() if name == "detectd_bundle_info"]
    assert [info["digest"] for info in infos] == [(path / "manifest.sha256").read_text().strip()]


def test_own_sources_come_go_and_change(daemon):
    synthetic = '[[stream]]\nid = "{}"\nsource = "synthetic"\nrate_hz = {}\n'
    daemon.reload(synthetic.format("one", 8000), synthetic.format("two", 8000), STEADY)
    streams = ("detectd_stream_up", "stream")
    assert until(lambda: dict(daemon.process.scrape().by_label(*streams)) == {"one": 1, "two": 1})
    before = daemon.process.scrape().audio("samples_total", "one")
    daemon.reload(synthetic.format("one", 8000), synthetic.format("three", 8000), STEADY)
    assert until(lambda: dict(daemon.process.scrape().by_label(*streams)) == {"one": 1, "three": 1})
    page = daemon.process.scrape()
    assert page.audio("samples_total", "one") > before
    assert page.audio("gap_samples_total", "one") == 0
    daemon.reload(synthetic.format("one", 16000), STEADY)
    assert until(
        lambda: "one: up, 16000" in daemon.process.stderr or daemon.process.scrape().audio("samples_total", "one") > 0
    )
    assert not daemon.process.scrape().by_label("detectd_audio_rejected_blocks_total", "reason").total()
    assert np.isfinite(page.audio("samples_total", "one"))


def test_a_stream_that_nobody_watches_any_more_needs_no_rate():
    assert lowest_rate_hz([], "yard") == 0
