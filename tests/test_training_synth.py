"""Synthetic signatures are what they say: levels, tones, spacing; and `detectd-train synth` writes them so."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_corpus import train

from detectd.dsp import synth
from detectd.dsp.clips import read_clip
from detectd.dsp.synth import Signature
from detectd.errors import DetectdError


def tone_power(samples, tones_hz, rate_hz):
    """Power of tones by least squares on their sines and cosines: knows nothing of how they were made."""
    time_s = np.arange(len(samples)) / rate_hz
    angles = 2 * np.pi * np.outer(time_s, tones_hz)
    basis = np.hstack([np.sin(angles), np.cos(angles)])
    weights, *_ = np.linalg.lstsq(basis, samples.astype(float), rcond=None)
    fitted = basis @ weights
    return np.mean(fitted**2), samples - fitted


@pytest.mark.parametrize("rate_hz", [8000, 44_100])
@pytest.mark.parametrize("snr_db", [-13.0, 0.0, 20.0])
def test_snr_is_tone_power_over_noise_within_1000_hz(snr_db, rate_hz):
    rng = np.random.default_rng(1)
    signature = Signature((100.3, 333.3, 812.7))
    samples = synth.clip(signature, snr_db, 20.0, rate_hz, rng)
    tones, noise = tone_power(samples, signature.tones_hz, rate_hz)
    spectrum = np.abs(np.fft.rfft(noise.astype(float))) ** 2 * 2 / len(noise) ** 2
    in_band = spectrum[np.fft.rfftfreq(len(noise), 1 / rate_hz) <= 1000].sum()
    # 20,000 independent values of noise power (0.04 dB), six of tones: at -13 dB they are known to 0.3 dB.
    assert 10 * np.log10(tones / in_band) == pytest.approx(snr_db, abs=0.4 if snr_db < 0 else 0.1)
    assert np.abs(samples).max() < 0.5
    assert 20 * np.log10(samples.std()) == pytest.approx(-26, abs=0.2)


@given(st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_random_signatures_lie_in_the_band_and_apart(n_tones, seed):
    tones_hz = synth.random_signature(n_tones, np.random.default_rng(seed)).tones_hz
    assert len(tones_hz) == n_tones
    assert min(tones_hz) >= 10
    assert max(tones_hz) <= 990 + 1e-9
    assert all(np.diff(tones_hz) >= synth.MIN_SPACING_HZ - 1e-9)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=8), st.integers(0, 10**9))
def test_blocks_of_any_length_join_without_a_seam(lengths, start):
    signature = Signature((137.0, 655.5))
    phases = synth.random_phases(signature, np.random.default_rng(0))

    def stretch(first, count):
        return synth.tones_at(signature, phases, start_sample=first, n_samples=count, rate_hz=44_100, total_power=0.1)

    starts = start + np.cumsum([0, *lengths[:-1]])
    joined = np.concatenate([stretch(int(first), count) for first, count in zip(starts, lengths, strict=True)])
    np.testing.assert_array_equal(joined, stretch(start, sum(lengths)))


def test_one_negative_in_five_is_noise_alone_and_the_rest_have_1_to_10_tones():
    rng = np.random.default_rng(0)
    drawn = [synth.random_negative(rng) for _ in range(5000)]
    assert np.mean([signature is None for signature in drawn]) == pytest.approx(0.2, abs=0.02)
    counts = np.bincount([len(signature.tones_hz) for signature in drawn if signature], minlength=11)
    assert counts[0] == 0
    assert counts[1:].min() > 300


def test_a_tone_that_the_rate_cannot_hold_is_refused():
    with pytest.raises(DetectdError, match="4000 Hz does not fit a sample rate of 8000 Hz"):
        synth.tones(Signature((4000.0,)), 10, 8000, np.random.default_rng(0), 1.0)


@pytest.mark.parametrize("tones_hz", [(), (0.0,), (-5.0, 10.0)])
def test_a_signature_without_tones_is_refused(tones_hz):
    with pytest.raises(DetectdError, match="at least one tone above 0 Hz"):
        Signature(tones_hz)


def test_the_command_writes_what_its_manifest_says(tmp_path):
    out = tmp_path / "corpus"
    options = ["--clips", "7", "--snr-db", "10", "--duration", "0.5", "--background", "10", "--rate", "16000"]
    done = train("synth", out, "--tones-hz", "250,600", *options, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"] == {"positive": 4, "negative": 3, "background": 1}
    with (out / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"] for row in rows) == sorted(
        path.relative_to(out).as_posix() for path in out.rglob("*.wav")
    )
    for row in rows:
        samples, rate_hz = read_clip(out / row["path"])
        assert rate_hz == 16_000
        assert len(samples) / rate_hz == float(row["end_s"])
        if row["label"] == "positive":
            assert row["tones_hz"] == "250.000 600.000"
            assert tone_power(samples[:, 0], [250, 600], rate_hz)[0] > 0.5 * samples.std() ** 2


def test_the_same_seed_writes_the_same_files_and_nothing_is_overwritten(tmp_path):
    for name in ("a", "b"):
        done = train("synth", tmp_path / name, "--clips", "4", "--duration", "0.2", "--background", "0", "--seed", "5")
        assert done.returncode == 0, done.stderr
    for file in (tmp_path / "a").rglob("*.wav"):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    done = train("synth", tmp_path / "a")
    assert done.returncode == 1
    assert "is not empty" in done.stderr
