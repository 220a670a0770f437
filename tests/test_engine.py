"""The engine with a real bundle whose score is the mean amplitude around 400 Hz, which says what must come out."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from cutting import cuts, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tiny_bundle import LINE, STFT, clips, make_tiny, model, picture_view

from detectd.bundles.arrays import npz_bytes
from detectd.bundles.golden import golden_arrays
from detectd.bundles.manifest import View
from detectd.bundles.scoring import open_detector_bundle
from detectd.commands.score import score_samples
from detectd.dsp.features import windows_of
from detectd.engine.engine import OVERLOAD_AFTER_S, OVERLOAD_LAG_S, Engine
from detectd.engine.tracker import EndReason, State
from detectd.engine.watch import Detector
from detectd.streams.backlog import Break, Chunk, Mark
from detectd.streams.stream import Stream

TONE_HZ = 400.0
RATE_HZ = 8000
WINDOW_S = STFT.window_s
ON, OFF = 0.08, 0.04


def band_weights(spec):
    near = np.abs(spec.frequencies_hz - TONE_HZ) <= 20
    return (near / near.sum()).astype(np.float32)


def band_graph(spec):
    over_time = len(spec.shape) == 2
    nodes = [helper.make_node("ReduceMean", ["windows", "one"], ["mean"], keepdims=0)] if over_time else []
    nodes.append(helper.make_node("MatMul", ["mean" if over_time else "windows", "weights"], ["score"]))
    constants = {"weights": band_weights(spec)} | ({"one": np.array([1])} if over_time else {})
    return model(nodes, {"windows": ("batch", *spec.shape)}, {"score": ("batch",)}, constants)


def band_score(spec, windows):
    rows = windows.mean(1, dtype=float) if windows.ndim == 3 else windows.astype(float)
    return rows @ band_weights(spec).astype(float)


def make_scorer(path, views):
    def score(windows):
        return sum(v.weight * band_score(v.spec, w) for v, w in zip(views, windows, strict=True))

    golden = golden_arrays(views, clips(), RATE_HZ, score)
    files = {view.graph: band_graph(view.spec) for view in views} | {"golden.npz": npz_bytes(golden)}
    return open_detector_bundle(make_tiny(path / "band.detectd", views, files).path)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return make_scorer(tmp_path_factory.mktemp("one"), [picture_view()])


@pytest.fixture(scope="module")
def two_views(tmp_path_factory):
    views = [picture_view(graph="picture.onnx"), View("line", "line.onnx", LINE, weight=0.001)]
    return make_scorer(tmp_path_factory.mktemp("two"), views)


def detector(scorer, name="band", **changes):
    made = Detector(name, scorer, ("*",), 0.25, ON, OFF, min_duration_s=0.0, hold_s=0.5)
    return dataclasses.replace(made, **changes)


def sound(rate_hz, seconds, tone_s=(), seed=0):
    """Noise, with the tone in given spans of seconds."""
    samples = noise(round(seconds * rate_hz), seed, scale=0.01)
    time = np.arange(len(samples)) / rate_hz
    for first, last in tone_s:
        samples += (0.2 * np.sin(2 * np.pi * TONE_HZ * time) * ((time >= first) & (time < last))).astype(np.float32)
    return samples


class Feeder:
    """A stream and what is put into its backlog."""

    def __init__(self, engine, stream_id="yard", rate_hz=RATE_HZ, first_sample=0):
        self.stream = Stream(stream_id)
        self.rate_hz = rate_hz
        engine.add(self.stream)
        self.epoch(rate_hz, first_sample)

    def epoch(self, rate_hz, first_sample=0):
        self.at, self.rate_hz = first_sample, rate_hz
        self.stream.backlog.capacity_samples = 1000 * rate_hz
        self.stream.backlog.mark(Mark(Break.EPOCH, 0, first_sample, rate_hz))

    def put(self, samples, arrived_s=0.0):
        self.stream.backlog.put(Chunk(samples, self.at, 10**9, 0, arrived_s))
        self.at += len(samples)

    def gap(self, n_samples):
        self.stream.backlog.mark(Mark(Break.GAP, n_samples))
        self.at += n_samples

    def end(self):
        self.stream.backlog.mark(Mark(Break.END))


def drain(engine, now=lambda: 0.0):
    """Steps until nothing is left: events, and scores by (detector, stream)."""
    events, scores = [], {}
    while (report := engine.step(now)).busy:
        events += report.events
        for name, batch in report.batches.items():
            assert batch.n_shed == 0
            for stream_id, start, score in batch.scores:
                scores.setdefault((name, stream_id), []).append((start, score))
    return events, scores


def outline(events):
    """What an event says, its id and exact scores aside."""
    return [
        (e.stream, e.detector, e.state, e.start_sample, e.end_sample, e.gap_samples, e.end_reason)
        for e in events
        if e.state is not State.UPDATE
    ]


def alone(scorer, samples, rate_hz, stream_id="yard", **changes):
    engine = Engine([detector(scorer, **changes)])
    feeder = Feeder(engine, stream_id, rate_hz)
    feeder.put(samples)
    feeder.end()
    return drain(engine)


def assert_scores(found, expected):
    assert [start for start, _ in found] == [start for start, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [2000, RATE_HZ, 44100])
def test_a_tone_is_an_event_at_its_time(scorer, rate_hz):
    events, _ = alone(scorer, sound(rate_hz, 8, [(2.0, 5.0)]), rate_hz)
    assert [event.state for event in events] == [State.START, *[State.UPDATE] * (len(events) - 2), State.END]
    assert len({event.event_id for event in events}) == 1
    end = events[-1]
    assert abs(end.start_sample / rate_hz - 2.0) <= WINDOW_S
    assert abs((end.end_sample + 1) / rate_hz - 5.0) <= WINDOW_S
    assert end.end_reason is EndReason.QUIET
    assert end.sample_rate_hz == rate_hz
    assert end.peak_score == max(event.peak_score for event in events) > ON
    assert end.start_utc_ns == 10**9 + round(end.start_sample * 10**9 / rate_hz)
    assert end.end_utc_ns == 10**9 + round(end.end_sample * 10**9 / rate_hz)
    assert [round(line.frequency_hz) for line in end.lines] == [TONE_HZ]


def test_noise_is_no_event(scorer):
    events, scores = alone(scorer, sound(RATE_HZ, 20), RATE_HZ)
    assert not events
    assert len(scores["band", "yard"]) == 1 + 19 * 4


def test_scores_are_those_of_the_windows(scorer):
    """`score_samples`, the engine itself and the features with the scorer by hand agree on every window."""
    for rate_hz, seconds, hop_s in ((2000, 3.3, 0.25), (44100, 2.0, 0.3), (44101, 1.0, 0.125)):
        samples = sound(rate_hz, seconds, [(0.5, 1.5)])
        windows, starts = windows_of(samples, rate_hz, STFT, hop_s)
        by_hand = list(zip(starts.tolist(), scorer.score([windows]).tolist(), strict=True))
        assert_scores(list(score_samples(samples, rate_hz, scorer, hop_s)), by_hand)
        assert_scores(alone(scorer, samples, rate_hz, hop_s=hop_s)[1]["band", "yard"], by_hand)
        np.testing.assert_allclose([s for _, s in by_hand], band_score(STFT, windows), rtol=1e-4, atol=1e-6)


@settings(max_examples=20)
@given(data=st.data(), rate_hz=st.sampled_from([2000, RATE_HZ]))
def test_any_cutting_gives_the_same_events(scorer, data, rate_hz):
    samples = sound(rate_hz, 5, [(1.0, 2.2), (3.6, 4.5)])
    expected_events, expected = alone(scorer, samples, rate_hz)
    engine, events, scores = Engine([detector(scorer)]), [], {}
    feeder = Feeder(engine, rate_hz=rate_hz)
    for block in np.split(samples, data.draw(cuts(len(samples)))):
        feeder.put(block)
        for _ in range(data.draw(st.integers(0, 2))):
            report = engine.step(lambda: 0.0)
            events += report.events
            for batch in report.batches.values():
                scores.setdefault(("band", "yard"), []).extend(batch.scores)
    feeder.end()
    rest_events, rest = drain(engine)
    found = [(start, score) for _, start, score in scores.get(("band", "yard"), [])] + rest.get(("band", "yard"), [])
    assert_scores(found, expected["band", "yard"])
    assert outline(events + rest_events) == outline(expected_events)
    assert len(outline(expected_events)) == 4


def test_streams_together_are_as_each_alone(scorer):
    rates_hz = [2000, RATE_HZ, RATE_HZ, 44100, 16000, 11025]
    sounds = [sound(rate_hz, 6, [(1 + 0.3 * i, 3 + 0.2 * i)], i) for i, rate_hz in enumerate(rates_hz)]
    engine = Engine([detector(scorer)])
    feeders = [Feeder(engine, f"s{i}", rate_hz) for i, rate_hz in enumerate(rates_hz)]
    events, scores, rng = [], {}, np.random.default_rng(1)
    while any(len(samples) > feeder.at for feeder, samples in zip(feeders, sounds, strict=True)):
        for feeder, samples in zip(feeders, sounds, strict=True):
            feeder.put(samples[feeder.at : feeder.at + rng.integers(1, feeder.rate_hz)])
        more, found = drain(engine)
        events += more
        for key, values in found.items():
            scores.setdefault(key, []).extend(values)
    for feeder in feeders:
        feeder.end()
    more, found = drain(engine)
    events += more
    for key, values in found.items():
        scores.setdefault(key, []).extend(values)
    for i, rate_hz in enumerate(rates_hz):
        expected_events, expected = alone(scorer, sounds[i], rate_hz, f"s{i}")
        assert_scores(scores["band", f"s{i}"], expected["band", f"s{i}"])
        mine = [event for event in events if event.stream == f"s{i}"]
        assert outline(mine) == outline(expected_events)
        assert len(outline(mine)) == 2


def test_two_detectors_do_not_know_of_each_other(scorer):
    samples = sound(RATE_HZ, 6, [(2.0, 4.0)])
    absent = detector(scorer, "absent", alarm_on="absent", hop_s=0.5, streams=("yard",))
    other = detector(scorer, "other", streams=("elsewhere*",))
    engine = Engine([detector(scorer), absent, other])
    feeder = Feeder(engine)
    assert [d.name for d in engine.detectors_of("yard")] == ["band", "absent"]
    feeder.put(samples)
    feeder.end()
    events, scores = drain(engine)
    assert set(scores) == {("band", "yard"), ("absent", "yard")}
    assert outline([e for e in events if e.detector == "band"]) == outline(alone(scorer, samples, RATE_HZ)[0])
    missing = [e for e in outline(events) if e[1] == "absent" and e[2] is State.END]
    assert [reason for *_, reason in missing] == [EndReason.QUIET, EndReason.STREAM_LOST]
    assert missing[0][3] == 0


def test_a_detector_hears_only_streams_whose_rate_holds_its_band(scorer):
    engine = Engine([detector(scorer)])
    feeder = Feeder(engine, rate_hz=1999)
    feeder.put(sound(1999, 2))
    assert drain(engine) == ([], {})
    assert engine.watches("yard") == []
    feeder.epoch(2000)
    feeder.put(sound(2000, 2))
    assert len(drain(engine)[1]["band", "yard"]) == 5
    books = feeder.stream.backlog.books()
    assert books.accepted == 3998 + 4000
    assert books.overrun == 0
    assert books.pending < 1000


@pytest.mark.parametrize(("gap_s", "n_events"), [(0.3, 1), (0.5, 1), (0.6, 2)])
def test_a_gap_resets_the_window_and_ends_what_cannot_survive_it(scorer, gap_s, n_events):
    engine = Engine([detector(scorer)])
    feeder = Feeder(engine)
    feeder.put(sound(RATE_HZ, 2.1, [(0, 9)]))
    gap = round(gap_s * RATE_HZ)
    feeder.gap(gap)
    after = feeder.at
    feeder.put(sound(RATE_HZ, 2.1, [(0, 9)]))
    feeder.end()
    events, scores = drain(engine)
    starts = [start for start, _ in scores["band", "yard"]]
    assert starts == [k * RATE_HZ // 4 for k in range(5)] + [after + k * RATE_HZ // 4 for k in range(5)]
    ends = [e for e in events if e.state is State.END]
    last_heard, last = 2 * RATE_HZ - 1, after + 2 * RATE_HZ - 1
    if n_events == 1:
        assert outline(ends) == [("yard", "band", State.END, 0, last, gap, EndReason.STREAM_LOST)]
    else:
        assert outline(ends) == [
            ("yard", "band", State.END, 0, last_heard, 0, EndReason.GAP),
            ("yard", "band", State.END, after, last, 0, EndReason.STREAM_LOST),
        ]


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 44100])
def test_an_epoch_begins_all_anew(scorer, rate_hz):
    engine = Engine([detector(scorer)])
    feeder = Feeder(engine, first_sample=500)
    feeder.put(sound(RATE_HZ, 1.6, [(0, 9)]))
    feeder.epoch(rate_hz, 70)
    feeder.put(sound(rate_hz, 1.3, [(0, 9)]))
    feeder.end()
    events, scores = drain(engine)
    expected = [500, 500 + RATE_HZ // 4, 500 + RATE_HZ // 2, 70, 70 + rate_hz // 4]
    assert [start for start, _ in scores["band", "yard"]] == expected
    assert [(e[3], e[4], e[6]) for e in outline(events) if e[2] is State.END] == [
        (500, 500 + RATE_HZ * 3 // 2 - 1, EndReason.GAP),
        (70, 70 + rate_hz // 4 + rate_hz - 1, EndReason.STREAM_LOST),
    ]
    assert_scores(
        [(start - 70, score) for start, score in scores["band", "yard"][3:]],
        alone(scorer, sound(rate_hz, 1.3, [(0, 9)]), rate_hz)[1]["band", "yard"],
    )


def test_events_still_open_are_ended_on_request(scorer):
    engine = Engine([detector(scorer)])
    feeder = Feeder(engine)
    feeder.put(sound(RATE_HZ, 2.1, [(0, 9)]))
    drain(engine)
    (ended,) = engine.end_all(EndReason.SHUTDOWN)
    assert (ended.state, ended.end_reason, ended.end_sample) == (State.END, EndReason.SHUTDOWN, 2 * RATE_HZ - 1)
    assert engine.end_all(EndReason.SHUTDOWN) == []


def test_masked_tones_raise_no_alarm(scorer):
    for mask_hz, n_events in (((), 1), ((TONE_HZ,), 0)):
        engine = Engine([detector(scorer)])
        feeder = Feeder(engine)
        feeder.stream.mask_hz = mask_hz
        feeder.put(sound(RATE_HZ, 3, [(0, 9)]))
        feeder.end()
        assert sum(event.state is State.END for event in drain(engine)[0]) == n_events


def test_a_latency_is_from_arrival_of_the_last_sample_to_the_score(scorer):
    """A window of 1 s in blocks of 0.1 s that arrive when recorded, scored 0.02 s after each."""
    engine, latencies = Engine([detector(scorer)]), []
    feeder, samples, now = Feeder(engine, rate_hz=2000), sound(2000, 3), 0.0
    for block in np.split(samples, 30):
        now += 0.1
        feeder.put(block, arrived_s=now)
        while (report := engine.step(lambda now=now: now + 0.02)).busy:
            for batch in report.batches.values():
                latencies += batch.latencies_s
    assert len(latencies) == 9
    assert latencies == pytest.approx([0.02] * 9, abs=1e-6)


def run_late(scorer, lags_s):
    """Windows scored and shed of a stream of which every half second is analysed so long after it arrived."""
    engine, scored, shed, now = Engine([detector(scorer)]), 0, 0, 100.0
    feeder = Feeder(engine)
    engine.step(lambda: now)
    for lag_s in lags_s:
        feeder.put(sound(RATE_HZ, 0.5), arrived_s=now)
        now += 0.5
        for batch in engine.step(lambda at=now + lag_s: at).batches.values():
            scored, shed = scored + batch.n_windows, shed + batch.n_shed
    return scored, shed


def test_windows_are_shed_only_when_late_for_long(scorer):
    late_s = OVERLOAD_LAG_S + 2.0
    due, shed = run_late(scorer, [0.0] * 40)
    assert due >= 19 * 4
    assert shed == 0
    scored, shed = run_late(scorer, [late_s] * 40)
    assert scored + shed == due
    assert shed >= due // 3
    # A hiccup sheds nothing, nor do several with time to recover between them.
    hiccup = [late_s] * int(OVERLOAD_AFTER_S / 0.5)
    assert run_late(scorer, ([0.0] * 6 + hiccup) * 5) == (due, 0)


def test_a_stream_faster_than_real_time_is_not_shed(scorer):
    """All of a recording at once: the engine keeps up with what arrives, so every window counts."""
    engine, n = Engine([detector(scorer)]), 0
    feeder = Feeder(engine)
    feeder.put(sound(RATE_HZ, 30), arrived_s=0.0)
    now = 0.0
    feeder.end()
    while (report := engine.step(lambda now=now: now)).busy:
        now += 0.005
        n += sum(batch.n_windows for batch in report.batches.values())
    assert n == 1 + 29 * 4


@pytest.mark.parametrize("hop_s", [0.25, 0.3, 0.05])
def test_the_views_of_a_bundle_look_at_the_same_windows(two_views, hop_s):
    """A picture's windows stand on the grid of its frames, so those of the line spectrum must too."""
    samples = sound(RATE_HZ, 4, [(1.5, 2.0)])
    scores = list(score_samples(samples, RATE_HZ, two_views, hop_s))
    hop = Fraction(max(1, round(hop_s / STFT.frame_hop_s))) * Fraction(STFT.frame_hop_s)
    pictures, starts = windows_of(samples, RATE_HZ, STFT, float(hop))
    lines, line_starts = windows_of(samples, RATE_HZ, LINE, float(hop))
    assert starts.tolist() == line_starts.tolist()
    by_hand = two_views.score([pictures, lines]).tolist()
    assert_scores(scores, list(zip(starts.tolist(), by_hand, strict=True)))


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 44_100, 44_101])
@pytest.mark.parametrize("kind", [Break.END, Break.GAP, Break.EPOCH])
@pytest.mark.parametrize("short_samples", [0, 1, 80])
def test_a_break_scores_the_windows_that_were_whole_and_no_other(scorer, rate_hz, kind, short_samples):
    engine = Engine([detector(scorer)])
    feeder = Feeder(engine, rate_hz=rate_hz)
    samples = sound(rate_hz, 2 * WINDOW_S)[short_samples:]
    feeder.put(samples)
    feeder.stream.backlog.mark(Mark(kind, n_samples=7, rate_hz=rate_hz))
    starts = []
    while (report := engine.step(lambda: 0.0)).busy:
        starts += [start for batch in report.batches.values() for _, start, _ in batch.scores]
    n_whole = int((len(samples) - round(WINDOW_S * rate_hz)) / (0.25 * rate_hz)) + 1
    assert len(starts) == n_whole
    assert max(starts) + round(WINDOW_S * rate_hz) <= len(samples)


def test_a_stream_forgotten_gives_up_its_place(scorer):
    engine = Engine([detector(scorer)])
    feeder = Feeder(engine)
    feeder.put(sound(RATE_HZ, 3, tone_s=[(0, 3)]))
    drain(engine)
    (ended,) = engine.remove("yard")
    assert ended.end_reason is EndReason.RELOAD
    assert not engine.watches("yard")
    again = Feeder(engine)
    again.put(sound(RATE_HZ, 3))
    assert not drain(engine)[0]
