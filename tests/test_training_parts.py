"""The pieces of training: thresholds, splits, choices, batches, and that there is one feature definition."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from detectd.dsp.synth import Signature, clip, random_negative
from detectd.errors import DetectdError
from training import calibrate, choose
from training.batches import Batches
from training.data import Windows, data_digest, make_clip
from training.recordings import Segment
from training.split import held_out

TRAINING = Path(__file__).parent.parent / "training"

SCORES = st.lists(st.integers(-8, 8), min_size=2, max_size=40)


def made(session, positive, samples=None, rate_hz=8000):
    samples = (
        np.random.default_rng(abs(hash((session, positive)))).standard_normal(8000) if samples is None else samples
    )
    return make_clip(Segment(Path(f"{session}.wav"), session), samples.astype(np.float32), rate_hz, positive)


def two_classes(data, low, high):
    scores = np.array(data.draw(st.lists(st.integers(low, high), min_size=4, max_size=40)), np.float32)
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    positive[:2] = True, False
    return scores, positive


@given(st.data())
def test_auc_is_scikit_learns(data):
    scores, positive = two_classes(data, -5, 5)
    assert calibrate.auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


@given(st.data())
def test_no_threshold_has_a_better_balanced_accuracy(data):
    scores, positive = two_classes(data, -5, 5)
    if len(np.unique(scores)) == 1:
        return
    on = calibrate.best_threshold(scores, positive)
    best = max(calibrate.figures(scores, positive, threshold).accuracy for threshold in np.unique(scores)[1:])
    assert calibrate.figures(scores, positive, on).accuracy == pytest.approx(best, abs=1e-12)


def test_the_threshold_is_the_middle_of_the_gap_and_off_lies_below():
    scores = np.array([-9, -8, -7, -3, 5, 6, 7], np.float32)
    threshold = calibrate.thresholds(scores, scores > 0)
    assert threshold.on == 1.0
    assert -3.25 <= threshold.off < threshold.on


@given(st.data())
def test_off_is_below_on(data):
    scores, positive = two_classes(data, -5, 5)
    threshold = calibrate.thresholds(scores, positive)
    assert threshold.off < threshold.on


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(0, 100))
def test_whole_recordings_of_both_classes_are_held_out(n_positive, n_negative, clips_each, seed):
    noise = np.zeros(8000)
    clips = [made(f"p{i}", True, noise) for i in range(n_positive) for _ in range(clips_each)]
    clips += [made(f"n{i}", False, noise) for i in range(n_negative) for _ in range(clips_each)]
    out = held_out(clips, seed)
    sessions = {True: set(), False: set()}
    for clip_, is_out in zip(clips, out, strict=True):
        sessions[bool(is_out)].add(clip_.segment.session)
    assert not sessions[True] & sessions[False]
    for side in "pn":
        assert all(any(name.startswith(side) for name in sessions[is_out]) for is_out in (True, False))


def test_recordings_that_hold_both_classes_stay_whole():
    clips = [made(f"s{i}", positive) for i in range(5) for positive in (True, False)]
    out = held_out(clips, 0)
    assert np.array_equal(out[::2], out[1::2])
    with pytest.raises(DetectdError, match="no split by recording"):
        held_out([made("one", True), made("one", False), made("two", True)], 0)


def test_the_longest_window_that_clips_fill():
    def clips(*seconds):
        return [made("x", positive, np.ones(round(s * 8000))) for s in seconds for positive in (True, False)]

    assert choose.choose_window(clips(*[1.0] * 9, 0.3)).value == (1.0,)
    assert choose.choose_window(clips(2.0, 5.0, 9.0)).value == (2.0,)
    assert choose.choose_window(clips(*[2.0] * 8, 0.6, 0.7)).value == (0.5,)


@pytest.mark.parametrize("tones_hz", [(300.0, 500.0), (300.0, 2700.0)])
def test_the_band_holds_what_differs(tones_hz):
    rng = np.random.default_rng(0)
    clips = [made(f"p{i}", True, clip(Signature(tones_hz), 0, 1.0, 16_000, rng), 16_000) for i in range(20)]
    clips += [made(f"n{i}", False, clip(random_negative(rng), 0, 1.0, 16_000, rng), 16_000) for i in range(20)]
    seen = choose.survey(clips, 1.0)
    assert not seen.coloured
    low, high = choose.choose_band(seen).value
    assert low <= min(tones_hz) < max(tones_hz) <= high


def test_a_coloured_background_is_looked_at_whole():
    rng = np.random.default_rng(0)
    clips = [made(f"{i}", i % 2 == 0, np.cumsum(rng.standard_normal(8000))) for i in range(12)]
    seen = choose.survey(clips, 1.0)
    assert seen.coloured
    assert choose.choose_band(seen).value == (8.0, 3600.0)


@pytest.mark.parametrize("window_s", [0.5, 0.625, 1.0, 1.375, 2.0, 10.0])
@pytest.mark.parametrize("band_hz", [(0.0, 50.0), (8.0, 992.0), (101.5, 3333.3), (10.0, 7200.0)])
def test_any_window_and_band_gives_a_picture_that_the_networks_take(window_s, band_hz):
    choose.check_window(window_s)
    spec = choose.picture_spec(band_hz, window_s)
    assert spec.n_frames >= 7


def test_batches_hold_both_classes_equally_and_shifts_keep_positives():
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((40, 7, 20)).astype(np.float32)
    windows = Windows(pictures, np.arange(40) < 5, np.arange(40))
    known = {picture.tobytes() for picture in pictures[:5]}
    batches = Batches(windows, 20, bootstrap=False, shift=True, seed=0)
    n_batches = 0
    for batch, classes in batches.epoch():
        assert classes.sum() == len(classes) / 2
        assert all(picture.numpy().tobytes() in known for picture in batch[classes > 0])
        n_batches += 1
    assert n_batches == len(batches)


def test_the_digest_of_data_knows_no_order():
    clips = [made(f"s{i}", True) for i in range(4)]
    assert data_digest(clips) == data_digest(clips[::-1]) != data_digest(clips[1:])


@pytest.mark.parametrize("path", sorted(TRAINING.rglob("*.py")), ids=lambda path: path.stem)
def test_training_has_no_features_of_its_own(path):
    assert not re.search(r"\b(i?rfft\w*|fft\w*|stft|mel\w*|spectrogram)\b", re.sub(r'"stft"', "", path.read_text()))
