"""The resampler against a slow twin with exact times, cut and batched in any way, and against its filter's promises."""

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
from cutting import RATES_HZ, cuts, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from detectd.dsp.lines import strongest_lines
from detectd.dsp.resample import Resampler

BAND_HZ = 1000.0
ANALYSIS_HZ = 3000
HALF_ULP = 2.0**-24


def whole(samples, rate_hz, analysis_hz=ANALYSIS_HZ, band_hz=BAND_HZ):
    """One stream, alone, in one push."""
    resampler = Resampler(rate_hz, analysis_hz, band_hz)
    resampler.add(0)
    return np.concatenate([*resampler.push([(0, [samples])]), resampler.flush(0)])


def steady(rate_hz, analysis_hz, band_hz, n_out):
    """Output samples that no edge of the signal touches."""
    reach = math.ceil(half_width(rate_hz, analysis_hz, band_hz) * analysis_hz / rate_hz) + 1
    assert n_out > 3 * reach
    return slice(reach, n_out - reach)


def half_width(rate_hz, analysis_hz, band_hz):
    """Half the length of the filter in input samples: Kaiser's estimate, and one sample more."""
    lower_hz = min(rate_hz, analysis_hz)
    transition = (lower_hz - 2 * band_hz) / rate_hz  # of the input rate: from the band to what folds onto its end
    return (stop_band_db(rate_hz, analysis_hz) - 7.95) / 14.36 / transition / 2 + 1


def stop_band_db(rate_hz, analysis_hz):
    """101 dB, and 6 more where the ripples on both sides of the Nyquist frequency meet."""
    return 107.0 if rate_hz < 2 * analysis_hz else 101.0


def weights(distances, rate_hz, analysis_hz, band_hz):
    """Impulse response at distances in input samples: an ideal low-pass at half the lower rate, Kaiser's taper."""
    cutoff = min(rate_hz, analysis_hz) / rate_hz
    beta = 0.1102 * (stop_band_db(rate_hz, analysis_hz) - 8.7)
    inside = np.maximum(0.0, 1 - (distances / half_width(rate_hz, analysis_hz, band_hz)) ** 2)
    taper = np.where(inside > 0, np.i0(beta * np.sqrt(inside)) / np.i0(beta), 0.0)
    return cutoff * np.sinc(cutoff * distances) * taper


def twin(samples, rate_hz, analysis_hz=ANALYSIS_HZ, band_hz=BAND_HZ):
    """Each output by itself, at its exact time, in float64; also the sum of absolute terms, for the tolerance."""
    half = half_width(rate_hz, analysis_hz, band_hz)
    out, size = [], []
    for m in range(math.ceil(Fraction(len(samples) * analysis_hz, rate_hz))):
        centre = Fraction(m * rate_hz, analysis_hz)
        near = range(max(0, math.ceil(centre - half)), min(len(samples), math.floor(centre + half) + 1))
        distances = np.array([float(centre - n) for n in near])
        terms = weights(distances, rate_hz, analysis_hz, band_hz) * samples[near.start : near.stop].astype(float)
        out.append(math.fsum(terms))
        size.append(math.fsum(abs(terms)))
    return np.array(out), np.array(size)


def rounding(n_terms, size):
    """How far two float32 sums of the same terms may lie apart.

    Each term is rounded as a weight and again in the running sum, by half a unit of the last place of what is at most
    `size`. Such errors are independent and add like a random walk; eight of its standard deviations never happen.
    The weights come from a table of 4096 steps a zero crossing: (pi / 4096)^2 / 8 off at most, relative to the peak.
    """
    return (8 * math.sqrt(2 * n_terms) * HALF_ULP + (math.pi / 4096) ** 2 / 8) * size


@pytest.mark.parametrize("rate_hz", [2500, 8000, 11025, 12800, 44100, 44101, 48000])
def test_equals_the_slow_twin(rate_hz):
    samples = noise(int(0.03 * rate_hz) + 7, seed=rate_hz)
    expected, size = twin(samples, rate_hz)
    n_terms = 2 * half_width(rate_hz, ANALYSIS_HZ, BAND_HZ)
    given_out = whole(samples, rate_hz)
    assert given_out.dtype == np.float32
    assert len(given_out) == len(expected)
    np.testing.assert_array_less(np.abs(given_out - expected), rounding(n_terms, size) + 1e-12)


@settings(max_examples=25)
@given(rate_hz=st.integers(200, 1500), n=st.integers(0, 300), seed=st.integers(0, 99))
def test_equals_the_slow_twin_at_any_ratio(rate_hz, n, seed):
    """Low rates make awkward ratios cheap; the arithmetic knows no difference."""
    samples = noise(n, seed)
    expected, size = twin(samples, rate_hz, 240, 80.0)
    given_out = whole(samples, rate_hz, 240, 80.0)
    assert len(given_out) == len(expected)
    n_terms = 2 * half_width(rate_hz, 240, 80.0)
    np.testing.assert_array_less(np.abs(given_out - expected), rounding(n_terms, size) + 1e-12)


@lru_cache(maxsize=64)
def _alone(rate_hz, seed):
    n = rate_hz * 3 // 10
    return noise(n, seed), whole(noise(n, seed), rate_hz)


@settings(max_examples=40)
@given(data=st.data(), rate_hz=st.sampled_from([2500, 8000, 11025, 44100, 44101]), n_streams=st.integers(1, 4))
def test_any_cutting_and_any_company_give_the_same(data, rate_hz, n_streams):
    resampler = Resampler(rate_hz, ANALYSIS_HZ, BAND_HZ)
    blocks, outputs = {}, {}
    for slot in range(n_streams):
        resampler.add(slot)
        samples, _ = _alone(rate_hz, slot)
        blocks[slot] = np.split(samples, data.draw(cuts(len(samples))))
        outputs[slot] = []
    while any(blocks.values()):
        several = data.draw(st.integers(1, 8))
        present = data.draw(st.sets(st.sampled_from([s for s in blocks if blocks[s]]), min_size=1))
        batch = [(slot, blocks[slot][:several]) for slot in sorted(present)]
        for (slot, pieces), out in zip(batch, resampler.push(batch), strict=True):
            outputs[slot].append(out)
            del blocks[slot][: len(pieces)]
    for slot, parts in outputs.items():
        samples, expected = _alone(rate_hz, slot)
        together = np.concatenate([*parts, resampler.flush(slot)])
        assert len(together) == len(expected)
        n_terms = 2 * half_width(rate_hz, ANALYSIS_HZ, BAND_HZ)
        # The terms of white noise through this filter: the sum of absolute weights is below 3.
        assert np.abs(together - expected).max() <= rounding(n_terms, 3 * np.abs(samples).max())


@given(data=st.data(), n=st.integers(0, 3000))
def test_equal_rates_change_no_bit(data, n):
    samples = noise(n)
    resampler = Resampler(ANALYSIS_HZ, ANALYSIS_HZ, BAND_HZ)
    resampler.add(5)
    parts = [resampler.push([(5, [block])])[0] for block in np.split(samples, data.draw(cuts(n)))]
    assert np.concatenate([*parts, resampler.flush(5)]).tobytes() == samples.tobytes()


@given(n=st.integers(0, 5000), rate_hz=st.integers(200, 4000))
def test_flush_gives_every_sample_that_begins_within_the_input(n, rate_hz):
    assert len(whole(np.zeros(n, np.float32), rate_hz, 240, 80.0)) == math.ceil(Fraction(n * 240, rate_hz))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_flush_at_the_usual_rates(rate_hz):
    for n in (0, 1, 13, rate_hz // 3, rate_hz // 2 + 1):
        assert len(whole(np.zeros(n, np.float32), rate_hz)) == math.ceil(Fraction(n * ANALYSIS_HZ, rate_hz))


def test_a_reset_stream_begins_anew_and_others_do_not_notice():
    rate_hz = 8000
    (one, expected_one), (two, expected_two) = _alone(rate_hz, 0), _alone(rate_hz, 1)
    resampler = Resampler(rate_hz, ANALYSIS_HZ, BAND_HZ)
    resampler.add(0)
    resampler.add(1)
    first = resampler.push([(0, [noise(777, 9)]), (1, [two[:500]])])[1]
    resampler.reset(0)
    again, rest = resampler.push([(0, [one]), (1, [two[500:]])])
    np.testing.assert_allclose(np.concatenate([again, resampler.flush(0)]), expected_one, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([first, rest, resampler.flush(1)]), expected_two, atol=1e-6)


def tones(rate_hz, frequencies_hz, n):
    """Sine and cosine of each frequency at full scale, shape (2 * n_frequencies, n)."""
    turns = np.remainder(np.outer(frequencies_hz, np.arange(n) / rate_hz), 1.0)
    return np.concatenate([np.sin(2 * np.pi * turns), np.cos(2 * np.pi * turns)]).astype(np.float32)


def through(rate_hz, analysis_hz, band_hz, rows):
    """Each row as a stream of its own, in one batch; what no edge touches, and the times it stands for in seconds."""
    resampler = Resampler(rate_hz, analysis_hz, band_hz)
    for slot in range(len(rows)):
        resampler.add(slot)
    outputs = resampler.push([(slot, [row]) for slot, row in enumerate(rows)])
    out = np.stack([np.concatenate([part, resampler.flush(slot)]) for slot, part in enumerate(outputs)])
    inner = steady(rate_hz, analysis_hz, band_hz, out.shape[1])
    return out[:, inner].astype(float), np.arange(out.shape[1])[inner] / analysis_hz


def swept(low_hz, high_hz, count=40):
    return np.concatenate([[low_hz, high_hz], np.random.default_rng(1).uniform(low_hz, high_hz, count)])


@pytest.mark.parametrize(
    ("rate_hz", "analysis_hz", "band_hz"),
    [(rate_hz, 3000, 1000.0) for rate_hz in RATES_HZ]
    + [(44100, 2000, 900.0), (48000, 2000, 900.0), (8000, 4000, 1600.0), (8000, 6000, 2500.0)],
)
def test_what_would_alias_into_the_band_is_stopped_by_100_db(rate_hz, analysis_hz, band_hz):
    # Nyquist itself aside: there a tone and its image are one and count twice.
    rows = tones(rate_hz, swept(analysis_hz - band_hz, 0.499 * rate_hz), int(0.12 * rate_hz))
    out, _ = through(rate_hz, analysis_hz, band_hz, rows)
    sine, cosine = np.split(out, 2)
    assert 20 * np.log10(np.hypot(sine, cosine).max()) <= -100.0


@pytest.mark.parametrize("rate_hz", [2500, *RATES_HZ])
def test_the_band_passes_at_its_own_time(rate_hz):
    """Sample m stands for time m / R: every tone of the band comes out with its own phase, images and all.

    A Kaiser design has the same ripple in both bands, 9e-6 at 101 dB; twice that for the sum over folds.
    """
    frequencies_hz = swept(0.0, BAND_HZ)
    out, times_s = through(rate_hz, ANALYSIS_HZ, BAND_HZ, tones(rate_hz, frequencies_hz, int(0.06 * rate_hz)))
    phase = 2 * np.pi * np.outer(frequencies_hz, times_s)
    np.testing.assert_allclose(out, np.concatenate([np.sin(phase), np.cos(phase)]), atol=2e-5)


@pytest.mark.parametrize("rate_hz", [8000, 44100, 44101])
def test_an_impulse_stands_at_its_time(rate_hz):
    samples = np.zeros(rate_hz // 4, np.float32)
    place = rate_hz // 10
    samples[place] = 1
    out = whole(samples, rate_hz).astype(float)
    distances = np.array([float(Fraction(m * rate_hz, ANALYSIS_HZ) - place) for m in range(len(out))])
    expected = weights(distances, rate_hz, ANALYSIS_HZ, BAND_HZ)
    np.testing.assert_allclose(out, expected, atol=1e-7)


@pytest.mark.parametrize("rate_hz", [8000, 44100, 48000])
def test_a_loud_tone_above_the_band_leaves_a_weak_one_alone(rate_hz):
    """3 kHz folds exactly onto 244 Hz at this analysis rate; it is 30 dB louder."""
    analysis_hz, band_hz = 2756, 900.0
    n = 2 * rate_hz
    weak_row, loud_row = tones(rate_hz, [244.0, 3000.0], n)[:2] * np.float32(0.02)
    loud_row = loud_row * np.float32(10**1.5)
    hiss = noise(n, 4, scale=0.002)
    rows = [weak_row, weak_row + loud_row, loud_row + hiss, hiss, weak_row + hiss, weak_row + loud_row + hiss]
    out, times_s = through(rate_hz, analysis_hz, band_hz, np.stack(rows))

    carrier = np.exp(-2j * np.pi * 244.0 * times_s) * np.hanning(len(times_s))
    alone, beside = np.abs(out[:2] @ carrier)
    assert abs(20 * np.log10(beside / alone)) < 0.2

    found = [strongest_lines(row.astype(np.float32), analysis_hz, (20.0, band_hz)) for row in out]
    assert not [line for line in found[2] if abs(line.frequency_hz - 244.0) < 5]
    assert len(found[2]) == len(found[3])
    clean, disturbed = found[4][0], found[5][0]
    assert abs(clean.frequency_hz - 244.0) < 0.1
    assert abs(disturbed.frequency_hz - 244.0) < 0.1
    assert abs(disturbed.snr_db - clean.snr_db) < 0.2
