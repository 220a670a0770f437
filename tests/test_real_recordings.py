"""Real recordings, where they are: the shipped detector is silent on them and finds its tones among them."""

import os
from pathlib import Path

import numpy as np
import pytest
from sounds import TONES_HZ

from detectd.bundles.scoring import open_detector_bundle
from detectd.commands.score import score_file, score_samples
from detectd.dsp.clips import read_clip

DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="module")
def data():
    if not DATA.is_dir():
        assert os.environ.get("DETECTD_TEST_DATA") != "required", f"{DATA} is missing and DETECTD_TEST_DATA=required"
        pytest.skip("needs the recordings, which are not part of the repository")
    return DATA


@pytest.fixture(scope="module")
def scorer():
    return open_detector_bundle(Path(__file__).parent.parent / "bundles" / "spec-cnn.detectd")


def test_no_recording_of_anything_else_reaches_the_threshold(data, scorer):
    paths = sorted(data.rglob("*.flac"))
    assert len(paths) > 200
    on = scorer.bundle.manifest.threshold.on
    loudest = {path: max(row.score for row in score_file(str(path), scorer, 0.25)) for path in paths}
    assert not {path.name: score for path, score in loudest.items() if score >= on}


def test_the_signature_in_a_real_forest_is_found_where_it_is(data, scorer):
    on = scorer.bundle.manifest.threshold.on
    for path in sorted((data / "forest-background").glob("*.flac"))[::4]:
        samples, rate_hz = read_clip(path)
        time = np.arange(len(samples)) / rate_hz
        spectrum = np.abs(np.fft.rfft(samples[:, 0])) ** 2
        in_band = np.fft.rfftfreq(len(samples), 1 / rate_hz) <= 1000
        noise_power = 2 * spectrum[in_band].sum() / len(samples) ** 2
        tones = sum(np.sin(2 * np.pi * tone_hz * time) for tone_hz in TONES_HZ)
        # As strong together as the forest up to 1000 Hz, from 3 s to 7 s.
        mixed = samples[:, 0] + np.sqrt(2 * noise_power / len(TONES_HZ)) * tones * ((time >= 3) & (time < 7))
        hot = [
            first / rate_hz
            for first, score in score_samples(mixed.astype(np.float32), rate_hz, scorer, 0.25)
            if score >= on
        ]
        assert hot, path.name
        assert min(hot) == pytest.approx(2.0, abs=1.0)
        assert max(hot) == pytest.approx(6.0, abs=1.0)
