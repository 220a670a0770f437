"""Detectors change while audio goes on: who stays notices nothing, who comes hears what is remembered."""

import dataclasses
import threading

import numpy as np
import pytest
from cutting import noise
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from test_engine import RATE_HZ, Feeder, assert_scores, detector, drain, make_scorer, outline, sound
from tiny_bundle import LINE, STFT, picture_view

from detectd.bundles.manifest import View
from detectd.dsp.features import windows_of
from detectd.engine.engine import Engine
from detectd.engine.tracker import EndReason, State
from detectd.monitor.metrics import Metrics
from detectd.service.loop import EngineLoop

LONG = dataclasses.replace(STFT, window_s=2.0)
OTHER_RATE = dataclasses.replace(STFT, analysis_rate_hz=3000, band_high_hz=1300.0)
HOP_S = 0.25


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Detectors by name: of one analysis rate, but for `other` and, in part, `both`."""
    views = {
        "picture": [picture_view()],
        "line": [View("line", "backbone.onnx", LINE)],
        "long": [View("picture", "backbone.onnx", LONG)],
        "pair": [picture_view(graph="picture.onnx"), View("line", "line.onnx", LINE, weight=0.001)],
        "other": [View("picture", "backbone.onnx", OTHER_RATE)],
        "both": [View("picture", "picture.onnx", OTHER_RATE), View("line", "line.onnx", LINE, weight=0.001)],
    }
    folder = tmp_path_factory.mktemp("pool")
    for name in views:
        (folder / name).mkdir()
    made = {name: detector(make_scorer(folder / name, of), name) for name, of in views.items()}
    return made | {"slow": dataclasses.replace(made["picture"], name="slow", hop_s=0.375)}


def window_samples(watcher):
    return round(watcher.specs[0].window_s * RATE_HZ)


@settings(max_examples=25)
@given(data=st.data())
def test_swaps_cost_no_window_of_who_stays_and_none_after_the_join_of_who_comes(pool, data):
    names = ["picture", "line", "long", "pair", "slow"]
    samples = sound(RATE_HZ, 12, [(3.0, 6.0)])
    engine, lone = Engine([pool["picture"]]), {name: Engine([pool[name]]) for name in names}
    feeders = [Feeder(each) for each in (engine, *lone.values())]
    found, expected = {}, {name: {} for name in names}
    present = {"picture": 0}
    began = 0
    for cut in [*sorted(data.draw(st.lists(st.integers(1, len(samples) - 1), max_size=8, unique=True))), len(samples)]:
        for feeder in feeders:
            feeder.put(samples[began:cut])
        for (name, _), scores in drain(engine)[1].items():
            assert name in present
            for start, score in scores:
                assert start not in found.setdefault(name, {}), "a window twice"
                found[name][start] = score
        for name, each in lone.items():
            new = dict(drain(each)[1].get((name, "yard"), []))
            expected[name] |= new
            if name in present:
                due = {start for start in new if start >= present[name]}
                assert due <= found.get(name, {}).keys(), f"{name} missed a window"
        began = cut
        wanted = data.draw(st.sets(st.sampled_from(names), min_size=1))
        engine.swap([pool[name] for name in sorted(wanted)])
        present = {name: present.get(name, cut) for name in wanted}
        if data.draw(st.integers(0, 3)) == 0:
            for feeder in feeders:
                feeder.gap(17)
            present = {name: min(since, cut) for name, since in present.items()}
    for name, scores in found.items():
        assert scores.keys() <= expected[name].keys(), f"{name} has windows where there are none"
        assert_scores(sorted(scores.items()), sorted((s, expected[name][s]) for s in scores))


def test_one_bundle_for_another_between_two_windows(pool):
    """The newcomer uses what its predecessor heard: no window is missing between the two."""
    samples = sound(RATE_HZ, 10)
    engine = Engine([pool["picture"]])
    feeder = Feeder(engine)
    feeder.put(samples[: 5 * RATE_HZ])
    before = drain(engine)[1]["picture", "yard"]
    engine.swap([dataclasses.replace(pool["line"], name="picture")])
    feeder.put(samples[5 * RATE_HZ :])
    feeder.end()
    after = drain(engine)[1]["picture", "yard"]
    starts = [start for start, _ in before + after]
    assert starts == list(range(0, 9 * RATE_HZ + 1, RATE_HZ // 4))
    windows, _ = windows_of(samples, RATE_HZ, LINE, HOP_S)
    assert_scores(
        after,
        [(s, v) for s, v in zip(starts, pool["line"].scorer.score([windows]).tolist(), strict=True)][len(before) :],
    )


def test_a_longer_window_begins_with_what_is_remembered(pool):
    samples = sound(RATE_HZ, 12)
    engine = Engine([pool["picture"]])
    feeder = Feeder(engine)
    feeder.put(samples[: 5 * RATE_HZ])
    drain(engine)
    engine.swap([pool["picture"], pool["long"]])
    feeder.put(samples[5 * RATE_HZ :])
    feeder.end()
    starts = [start for start, _ in drain(engine)[1]["long", "yard"]]
    assert 3 * RATE_HZ <= starts[0] <= 4 * RATE_HZ, "the windows that end after the swap, heard in part before it"
    assert starts == list(range(starts[0], 10 * RATE_HZ + 1, RATE_HZ // 4))


@pytest.mark.parametrize("at_s", np.arange(4.0, 6.0, 0.1))
def test_what_is_remembered_is_heard_before_new_audio_takes_its_place(pool, at_s):
    """The audio's memory moves up now and then; whenever that is, the newcomer's windows are those of the sound."""
    samples = sound(RATE_HZ, 9)
    at = round(at_s * RATE_HZ)
    engine = Engine([pool["line"]])
    feeder = Feeder(engine)
    feeder.put(samples[:at])
    drain(engine)
    engine.swap([pool["line"], pool["picture"]])
    feeder.put(samples[at:])
    feeder.end()
    windows, starts = windows_of(samples, RATE_HZ, STFT, HOP_S)
    expected = list(zip(starts.tolist(), pool["picture"].scorer.score([windows]).tolist(), strict=True))
    found = drain(engine)[1]["picture", "yard"]
    assert_scores(found, [(start, score) for start, score in expected if start >= found[0][0]])


@pytest.mark.parametrize("name", ["other", "both"])
def test_a_detector_of_another_analysis_rate_begins_where_it_joins(pool, name):
    samples = noise(RATE_HZ * 12, 3, scale=0.1)
    engine = Engine([pool["line"]])
    feeder = Feeder(engine)
    at = 4 * RATE_HZ + 123
    feeder.put(samples[:at])
    before = drain(engine)[1]["line", "yard"]
    engine.swap([pool["line"], pool[name]])
    feeder.put(samples[at : 8 * RATE_HZ])
    feeder.gap(5)
    feeder.put(samples[8 * RATE_HZ :])
    feeder.end()
    scores = drain(engine)[1]
    lone = Engine([pool["line"]])
    feeder = Feeder(lone)
    feeder.put(samples[: 8 * RATE_HZ])
    feeder.gap(5)
    feeder.put(samples[8 * RATE_HZ :])
    feeder.end()
    assert_scores(before + scores["line", "yard"], drain(lone)[1]["line", "yard"])
    expected = []
    for first, heard in ((at, samples[at : 8 * RATE_HZ]), (8 * RATE_HZ + 5, samples[8 * RATE_HZ :])):
        parts = [windows_of(heard, RATE_HZ, spec, HOP_S) for spec in pool[name].specs]
        n_windows = min(len(starts) for _, starts in parts)
        values = pool[name].scorer.score([windows[:n_windows] for windows, _ in parts])
        expected += zip((first + parts[0][1][:n_windows]).tolist(), values.tolist(), strict=True)
    found = scores[name, "yard"]
    assert len(found) > 20
    assert_scores(found, [(s, v) for s, v in expected if s + window_samples(pool[name]) <= 12 * RATE_HZ + 5])


def test_an_event_goes_on_where_its_detector_stays_and_ends_where_it_goes(pool):
    engine = Engine([pool["picture"], pool["line"]])
    feeder = Feeder(engine)
    samples = sound(RATE_HZ, 10, [(1.0, 8.0)])
    feeder.put(samples[: 4 * RATE_HZ])
    begun = drain(engine)[0]
    assert {(e.detector, e.state) for e in begun} >= {("picture", State.START), ("line", State.START)}
    louder = dataclasses.replace(pool["line"], on=pool["line"].on * 1.1)
    ended = engine.swap([louder, pool["picture"]])
    assert [(e.detector, e.state, e.end_reason) for e in ended] == [("line", State.END, EndReason.RELOAD)]
    assert ended[0].event_id == next(e.event_id for e in begun if e.detector == "line")
    feeder.put(samples[4 * RATE_HZ :])
    events = drain(engine)[0]
    of_picture = [e for e in begun + events if e.detector == "picture"]
    lone = Engine([pool["picture"]])
    feeder = Feeder(lone)
    feeder.put(samples)
    assert outline(of_picture) == outline(drain(lone)[0])
    assert len({e.event_id for e in of_picture}) == 1
    assert engine.watches("yard")[0].events == 2, "the count of a detector's events goes on"


def test_detectors_may_all_go_and_come_again(pool):
    engine = Engine([pool["picture"]])
    feeder = Feeder(engine)
    samples = noise(RATE_HZ * 9, 1, scale=0.1)
    feeder.put(samples[: 3 * RATE_HZ])
    drain(engine)
    assert engine.swap([]) == []
    feeder.put(samples[3 * RATE_HZ : 5 * RATE_HZ])
    assert drain(engine)[1] == {}
    engine.swap([pool["picture"]])
    feeder.put(samples[5 * RATE_HZ :])
    feeder.end()
    starts = [start for start, _ in drain(engine)[1]["picture", "yard"]]
    assert starts == list(range(5 * RATE_HZ, 8 * RATE_HZ + 1, RATE_HZ // 4))
    np.testing.assert_equal(feeder.stream.backlog.books().analysed, len(samples))


def test_a_detector_that_is_for_more_streams_now_goes_on_where_it_was(pool):
    first = dataclasses.replace(pool["picture"], streams=("yard",))
    engine = Engine([first])
    feeders = {stream_id: Feeder(engine, stream_id) for stream_id in ("yard", "shed")}
    samples = sound(RATE_HZ, 10, [(1.0, 8.0)])
    for feeder in feeders.values():
        feeder.put(samples[: 4 * RATE_HZ])
    events = drain(engine)[0]
    assert {event.stream for event in events} == {"yard"}
    assert engine.swap([dataclasses.replace(first, streams=("yard", "shed"))]) == []
    for feeder in feeders.values():
        feeder.put(samples[4 * RATE_HZ :])
    events += drain(engine)[0]
    assert {event.event_id for event in events if event.stream == "yard"} == {events[0].event_id}
    assert {event.stream for event in events} == {"yard", "shed"}
    ended = engine.swap([dataclasses.replace(first, streams=("shed",))])
    assert not ended
    assert not engine.watches("yard")


def test_what_waits_of_a_stream_that_is_forgotten_makes_no_event(pool):
    engine = Engine([pool["picture"]])
    feeder = Feeder(engine)
    feeder.put(sound(RATE_HZ, 8, [(1.0, 8.0)]))
    engine.remove("yard")
    assert drain(engine) == ([], {})
    assert not engine.waiting


def test_a_swap_is_done_when_the_last_step_with_other_detectors_is_over(pool):
    telling, told = threading.Event(), threading.Event()

    def tell(_event):
        telling.set()
        told.wait(20)

    engine = Engine([pool["picture"]])
    feeder = Feeder(engine)
    feeder.put(sound(RATE_HZ, 4, [(1.0, 4.0)]))
    loop = EngineLoop(engine, threading.Event(), Metrics(CollectorRegistry()), tell)
    loop.start()
    try:
        assert telling.wait(20)
        done = loop.swap([])
        assert not done.wait(0.3)
        told.set()
        assert done.wait(20)
        assert not engine.detectors
    finally:
        told.set()
        loop.stop(EndReason.SHUTDOWN)
