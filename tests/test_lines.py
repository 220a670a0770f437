"""Tonal lines: where they are, how strong, and that noise of any colour has none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectd.dsp.lines import MAX_LINES, strongest_lines

RATE_HZ = 3000
N = 2 * RATE_HZ  # a window of 2 s: bins of 0.5 Hz
BIN_HZ = RATE_HZ / N
BAND_HZ = (20.0, 1000.0)
LEVEL = 0.1


def noise(seed, slope=0.0, n=N):
    """Noise whose power goes with frequency to the power of `slope`, of unit variance before it is scaled."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    frequencies = np.maximum(np.fft.rfftfreq(n, 1 / RATE_HZ), 5.0)
    made = np.fft.irfft(spectrum * frequencies ** (slope / 2), n)
    return LEVEL * made / made.std()


def amplitude(snr_db):
    """Of a tone that stands so far above the white noise in one bin of the tapered window, 1.5 / window wide."""
    return LEVEL * np.sqrt(4 * 1.5 / N * 10 ** (snr_db / 10))


def tone(hz, snr_db, phase=0.3):
    return amplitude(snr_db) * np.sin(2 * np.pi * hz * np.arange(N) / RATE_HZ + phase)


def lines_of(samples, **more):
    return strongest_lines(samples.astype(np.float32), RATE_HZ, BAND_HZ, **more)


@settings(max_examples=60)
@given(hz=st.floats(30, 990), snr_db=st.floats(20, 50), seed=st.integers(0, 10**6), phase=st.floats(0, 6.28))
def test_a_tone_is_found_at_its_frequency(hz, snr_db, seed, phase):
    (line, *others) = lines_of(noise(seed) + tone(hz, snr_db, phase))
    # The Cramér-Rao bound at 20 dB is 0.05 of a bin; the parabola's own error stays below 0.02.
    assert abs(line.frequency_hz - hz) <= (0.25 if snr_db < 30 else 0.1) * BIN_HZ
    assert all(other.snr_db <= line.snr_db for other in others)


@pytest.mark.parametrize("snr_db", [16.0, 20.0, 30.0, 40.0])
@pytest.mark.parametrize("hz", [61.3, 244.25, 700.0])
def test_the_snr_is_what_it_was_made_with(hz, snr_db):
    """On average: in one window the noise within the line's own bin adds to it or takes from it."""
    found = [lines_of(noise(seed) + tone(hz, snr_db, seed))[0].snr_db for seed in range(20)]
    assert np.mean(found) == pytest.approx(snr_db, abs=1.5)


@pytest.mark.parametrize("snr_db", [30.0, 40.0])
def test_the_snr_of_a_strong_line_is_right_in_every_window(snr_db):
    for seed in range(20):
        assert lines_of(noise(seed) + tone(100 + 41.7 * seed, snr_db, seed))[0].snr_db == pytest.approx(snr_db, abs=1.5)


@pytest.mark.parametrize("slope", [0, -1, -2, 1], ids=["white", "pink", "brown", "blue"])
@pytest.mark.parametrize("level", [1.0, 1e-4])
def test_noise_alone_shows_a_line_in_at_most_one_window_of_ten(slope, level):
    with_lines = sum(bool(lines_of(level * noise(seed, slope))) for seed in range(200))
    assert with_lines <= 20


def test_noise_through_a_window_of_1_s_shows_no_more():
    with_lines = sum(
        bool(strongest_lines(noise(seed, n=RATE_HZ).astype(np.float32), RATE_HZ, BAND_HZ)) for seed in range(200)
    )
    assert with_lines <= 20


def test_masked_tones_are_left_out():
    sound = noise(1) + tone(50.0, 40) + tone(300.0, 30)
    assert [round(line.frequency_hz) for line in lines_of(sound)][:2] == [50, 300]
    assert [round(line.frequency_hz) for line in lines_of(sound, mask_hz=(50.0,))] == [300]
    assert [round(line.frequency_hz) for line in lines_of(sound, mask_hz=(50.4, 299.6))] == []
    assert 300 in [round(line.frequency_hz) for line in lines_of(sound, mask_hz=(290.0,))]


def test_at_most_ten_strongest_first():
    strengths = {60.0 + 73 * i: 25.0 + 2.5 * ((i * 7) % 12) for i in range(12)}
    found = lines_of(noise(2) + sum(tone(hz, snr_db, hz) for hz, snr_db in strengths.items()))
    assert len(found) == MAX_LINES == 10
    assert [line.snr_db for line in found] == sorted((line.snr_db for line in found), reverse=True)
    strongest = sorted(strengths, key=strengths.get, reverse=True)[:10]
    assert [round(line.frequency_hz) for line in found] == [round(hz) for hz in strongest]


def test_two_tones_are_two_lines():
    found = lines_of(noise(3) + tone(400.0, 35) + tone(403.0, 35))
    assert sorted(round(line.frequency_hz) for line in found) == [400, 403]


@pytest.mark.parametrize("snr_db", [45.0, 60.0, 75.0])
@pytest.mark.parametrize("hz", [400.0, 400.13, 61.25])
def test_one_tone_is_one_line_however_strong(hz, snr_db):
    """The taper's side lobes stand out of the noise too; they are not lines."""
    assert len(lines_of(noise(3) + tone(hz, snr_db))) == 1


def test_a_weak_tone_beside_a_strong_one_is_seen():
    found = lines_of(noise(3) + tone(400.0, 60) + tone(405.0, 30))
    assert [round(line.frequency_hz) for line in found] == [400, 405]


def test_a_steady_tone_has_no_width_and_a_wavering_one_has():
    assert lines_of(noise(4) + tone(400.2, 45))[0].bandwidth_hz < 0.3 * BIN_HZ
    drift_hz = 3.0
    phase = 2 * np.pi * (400 * np.arange(N) / RATE_HZ + drift_hz / 2 * (np.arange(N) / RATE_HZ) ** 2 / (N / RATE_HZ))
    swept = amplitude(45) * np.sin(phase)
    # The taper makes the middle of the window count most: half its power lies in the middle third.
    assert 0.2 * drift_hz < lines_of(noise(4) + swept)[0].bandwidth_hz < 0.5 * drift_hz


def test_only_lines_within_the_band():
    sound = noise(5) + tone(1200.0, 50) + tone(10.0, 50) + tone(500.0, 30)
    assert [round(line.frequency_hz) for line in lines_of(sound)] == [500]


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(N),
        np.ones(N),
        np.full(N, 1e-40),
        1e6 * np.sin(0.5 * np.arange(N)),
        np.eye(1, N, N // 2)[0],
        np.zeros(8),
    ],
    ids=["silence", "dc", "denormal", "loud", "click", "short"],
)
def test_every_sound_gives_finite_lines(samples):
    for line in lines_of(samples):
        assert np.isfinite([line.frequency_hz, line.snr_db, line.bandwidth_hz]).all()
        assert BAND_HZ[0] - 1 <= line.frequency_hz <= BAND_HZ[1] + 1
