"""Features against a per-frame twin in float64, for any cutting and company; their level, masks, guard and specs."""

import dataclasses
import json
from fractions import Fraction
from functools import lru_cache

import numpy as np
import pytest
from cutting import RATES_HZ, cuts, noise
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_resample import twin as resampled_twin

from detectd.dsp.features import MAX_PUSH_S, AnalysisAudio, Features, hop_positions, windows_of
from detectd.dsp.spec import FeatureSpec
from detectd.errors import BundleError

R = 3000
STFT = FeatureSpec("stft", 20.0, 1000.0, R, 1.0, frame_s=0.25, frame_hop_s=0.125)
BOXCAR = dataclasses.replace(STFT, taper="boxcar", frame_hop_s=0.2, zero_pad=2)
LINE = FeatureSpec("line", 20.0, 1000.0, R, 1.0, zero_pad=4, floor_hz=150.0)
SPECS = pytest.mark.parametrize("spec", [STFT, BOXCAR, LINE], ids=["stft", "boxcar", "line"])
WITHIN = 1e-5
"""Of a frame's largest amplitude: what sums of a few hundred float32 terms may differ by in another order."""


def amplitudes(stretch, spec):
    """One spectrum the slow way: periodic taper of unit energy, a guard left out at the end, every bin by its sum."""
    frame = len(stretch)
    weighed = frame - min(frame // 23, 32)
    n = np.arange(weighed)
    taper = np.sin(np.pi * n / weighed) ** 2 if spec.taper == "hann" else np.ones(weighed)
    part = stretch[:weighed].astype(float) * taper / np.sqrt(np.sum(taper**2))
    spectrum = np.fft.rfft(part, frame * spec.zero_pad)
    bins_hz = np.arange(len(spectrum)) * spec.analysis_rate_hz / (frame * spec.zero_pad)
    return np.abs(spectrum[(bins_hz >= spec.band_low_hz) & (bins_hz <= spec.band_high_hz)])


def picture_twin(samples, spec, hop_s):
    """Windows of samples at the analysis rate, one frame after the other."""
    frame, step = round(spec.frame_s * R), round(spec.frame_hop_s * R)
    window, hop = round(spec.window_s * R), max(1, round(hop_s * R / step)) * step
    pictures = []
    for start in range(0, len(samples) - window + 1, hop):
        firsts = range(start, start + window - frame + 1, step)
        pictures.append([amplitudes(samples[first : first + frame], spec) for first in firsts])
    return np.array(pictures)


def assert_close(found, expected, spec, within=WITHIN):
    """Within a share of each spectrum's largest amplitude; powers differ by twice the share of the largest power."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    if found.size:
        share = within if spec.kind == "stft" else 4 * within
        assert (np.abs(found - expected) <= share * expected.max(axis=-1, keepdims=True)).all()


@pytest.mark.parametrize("spec", [STFT, BOXCAR], ids=["hann", "boxcar"])
def test_a_picture_equals_its_slow_twin(spec):
    samples = noise(2 * R + 123)
    windows, _ = windows_of(samples, R, spec, 0.25)
    expected = picture_twin(samples, spec, 0.25)
    assert_close(windows, expected, spec)


@pytest.mark.parametrize("rate_hz", [2500, 8000, 44101])
def test_a_picture_equals_its_slow_twin_through_the_resampler(rate_hz):
    samples = noise(round(1.2 * rate_hz))
    at_analysis_rate, _ = resampled_twin(samples, rate_hz, R, STFT.band_high_hz)
    windows, _ = windows_of(samples, rate_hz, STFT, 0.125)
    expected = picture_twin(at_analysis_rate, STFT, 0.125)[: len(windows)]
    assert len(windows) == 2
    assert_close(windows, expected, STFT)


def test_a_line_spectrum_is_power_over_a_running_median():
    """Its medians stand on a coarse grid; a median around every single bin says the same to a few tenths of a dB."""
    samples = noise(R)
    (found,), _ = windows_of(samples, R, LINE, 1.0)
    power = amplitudes(samples, LINE) ** 2
    half = round(LINE.floor_hz * LINE.zero_pad) // 2
    for i in range(4 * half, len(power) - 2 * half, 7):
        floor = np.median(power[i - half : i + half + 1]) / np.log(2)
        assert abs(10 * np.log10(found[i] / (power[i] / floor))) < 1.5


def stream_all(recordings, rates_hz, spec, hop_s, blocks, turns):
    """Windows of several streams fed side by side: `turns` gives the streams to feed next and how many blocks each."""
    audio = AnalysisAudio(spec.analysis_rate_hz, spec.band_high_hz, spec.window_s)
    features = Features(spec, audio)
    slots = [audio.add(rate_hz) for rate_hz in rates_hz]
    hop = hop_positions(spec, hop_s)
    taken = {slot: [] for slot in slots}
    for slot in slots:
        features.begin(slot)

    def collect(which):
        features.update(which)
        due = [
            (slot, len(taken[slot]) * hop + i * hop)
            for slot in which
            for i in range(len(range(len(taken[slot]) * hop, features.positions(slot), hop)))
        ]
        if due:
            owners, positions = np.array(due).T
            for slot, window in zip(owners, features.windows(owners, positions), strict=True):
                taken[slot].append(window)

    left = [list(parts) for parts in blocks]
    while any(left):
        batch = []
        for slot, several in turns(left):
            room, pieces = int(MAX_PUSH_S * rates_hz[slot]), []
            while left[slot] and len(pieces) < several and len(left[slot][0]) <= room:
                room -= len(left[slot][0])
                pieces.append(left[slot].pop(0))
            if left[slot] and not pieces:
                pieces, left[slot][0] = [left[slot][0][:room]], left[slot][0][room:]
            batch.append((slots[slot], pieces, 1.0))
        audio.push(batch)
        collect([slot for slot, _, _ in batch])
    for slot in slots:
        audio.flush(slot)
        collect([slot])
    assert len(recordings) == len(taken)
    return [np.array(windows).reshape(-1, *spec.shape) for windows in taken.values()]


@lru_cache(maxsize=64)
def _whole(rate_hz, spec, seed):
    samples = noise(int(1.9 * rate_hz), seed)
    samples[: rate_hz // 3] += np.float32(0.3)
    return samples, windows_of(samples, rate_hz, spec, 0.25)[0]


@settings(max_examples=30)
@given(
    data=st.data(),
    rates_hz=st.lists(st.sampled_from([2500, R, 8000, 11025, 44100]), min_size=1, max_size=4),
    spec=st.sampled_from([STFT, BOXCAR, LINE]),
)
def test_any_cutting_and_any_company_give_the_same(data, rates_hz, spec):
    whole = [_whole(rate_hz, spec, seed) for seed, rate_hz in enumerate(rates_hz)]
    blocks = [np.split(samples, data.draw(cuts(len(samples)))) for samples, _ in whole]

    def turns(left):
        present = data.draw(st.sets(st.sampled_from([i for i, parts in enumerate(left) if parts]), min_size=1))
        return [(i, data.draw(st.integers(1, 40))) for i in sorted(present)]

    found = stream_all([samples for samples, _ in whole], rates_hz, spec, 0.25, blocks, turns)
    for windows, rate_hz, (_, expected) in zip(found, rates_hz, whole, strict=True):
        assert len(expected) >= 4
        assert_close(windows, expected, spec)
        if rate_hz == R:
            # No matrix product stands before these: not one bit may change.
            assert windows.tobytes() == expected.tobytes()


@SPECS
@pytest.mark.parametrize("rate_hz", [2500, R, *RATES_HZ])
def test_a_clip_of_exactly_one_window_gives_one_row(rate_hz, spec):
    windows, starts = windows_of(noise(rate_hz), rate_hz, spec, 0.25)
    assert windows.shape == (1, *spec.shape)
    assert starts.tolist() == [0]


LOW = FeatureSpec("stft", 5.0, 80.0, 240, 0.5, frame_s=0.25, frame_hop_s=0.125)


@given(rate_hz=st.integers(LOW.min_rate_hz, 3000), window=st.integers(60, 240))
def test_a_clip_of_exactly_one_window_gives_one_row_at_any_rate(rate_hz, window):
    spec = dataclasses.replace(LOW, window_s=window / 240)
    n = round(spec.window_s * rate_hz)
    windows, starts = windows_of(noise(n), rate_hz, spec, 0.1)
    assert (len(windows), starts.tolist()) == (1, [0])
    # Shorter by more than the guard and what rounding takes: not a window.
    missing = round((spec.guard_samples + 3) / 240 * rate_hz)
    windows, starts = windows_of(noise(n - missing), rate_hz, spec, 0.1)
    assert (windows.shape, len(starts)) == ((0, *spec.shape), 0)


@given(rate_hz=st.integers(LOW.min_rate_hz, 3000), hop_s=st.floats(0.001, 1.5), seconds=st.floats(0, 5))
def test_window_k_covers_round_k_h_rate_onwards(rate_hz, hop_s, seconds):
    samples = np.zeros(int(seconds * rate_hz), np.float32)
    assume(abs(hop_s / LOW.frame_hop_s % 1 - 0.5) > 1e-6)
    windows, starts = windows_of(samples, rate_hz, LOW, hop_s)
    hop = max(1, round(hop_s / LOW.frame_hop_s)) * Fraction(LOW.frame_hop_s)
    assert starts.tolist() == [round(k * hop * rate_hz) for k in range(len(windows))]
    # Every window that is whole is there, and none reaches far beyond the end.
    last = len(windows) * hop * rate_hz
    assert last + Fraction(LOW.window_s) * rate_hz > len(samples) - 1
    if len(windows):
        guard = (LOW.guard_samples + 1) / 240
        assert starts[-1] + LOW.window_s * rate_hz <= len(samples) + 1 + guard * rate_hz


@SPECS
@pytest.mark.parametrize("rate_hz", [R, 12000, 48000])
def test_a_window_holds_what_lies_at_its_start(rate_hz, spec):
    """Window k of a recording is the first window of the recording from that sample on."""
    samples = noise(2 * rate_hz)
    windows, starts = windows_of(samples, rate_hz, spec, 0.4)
    for window, start in zip(windows[1:], starts[1:].tolist(), strict=True):
        (alone, *_), _ = windows_of(samples[start:], rate_hz, spec, 0.4)
        # Only the filter knows what came before: the first samples differ by its reach, as noise does at an edge.
        within = WITHIN if rate_hz == R else 0.05
        assert np.abs(window - alone).max() <= within * 4 * window.max()


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("analysis_hz", [3000, 3200])
@pytest.mark.parametrize("kind", ["stft", "line"])
def test_a_window_is_there_as_soon_as_its_last_sample_is(rate_hz, analysis_hz, kind):
    """The guard at a frame's end is as long as what the filter holds back, so no window waits for the next block."""
    base = STFT if kind == "stft" else LINE
    spec = dataclasses.replace(base, analysis_rate_hz=analysis_hz)
    audio = AnalysisAudio(analysis_hz, spec.band_high_hz, spec.window_s)
    features = Features(spec, audio)
    slot = audio.add(rate_hz)
    features.begin(slot)
    hop, pushed = hop_positions(spec, 0.25), 0
    for k in range(17):
        end = round(k * 0.25 * rate_hz) + rate_hz
        while pushed < end:
            n = min(rate_hz // 10, end - pushed)
            audio.push([(slot, [noise(n)], 1.0)])
            pushed += n
            features.update([slot])
        assert features.positions(slot) > k * hop


@pytest.mark.parametrize("rate_hz", [R, 8000, 48000])
@pytest.mark.parametrize("spec", [STFT, BOXCAR], ids=["hann", "boxcar"])
def test_white_noise_of_variance_v_has_mean_power_v(rate_hz, spec):
    """At the analysis rate; at any other, noise of the same density. 15,000 independent cells scatter by 1 %."""
    variance = 0.04
    samples = noise(20 * rate_hz, scale=np.sqrt(variance * rate_hz / R))
    windows, _ = windows_of(samples, rate_hz, spec, 1.0)
    assert np.mean(windows.astype(float) ** 2) == pytest.approx(variance, rel=0.04)


@pytest.mark.parametrize("spec", [STFT, BOXCAR], ids=["hann", "boxcar"])
def test_a_tone_stands_in_its_bin_at_its_power(spec):
    """A tone of amplitude a has power a^2 / 4 times (sum w)^2 / sum w^2: a^2 n / 4 for a boxcar, a^2 n / 6 for Hann."""
    tone_hz = 400.0
    samples = (0.5 * np.sin(2 * np.pi * tone_hz * np.arange(2 * R) / R)).astype(np.float32)
    windows, _ = windows_of(samples, R, spec, 0.25)
    weighed = 750 - 32
    gain = weighed / 4 if spec.taper == "boxcar" else weighed / 6
    assert set(spec.frequencies_hz[windows.argmax(axis=-1)].ravel().tolist()) == {tone_hz}
    np.testing.assert_allclose(windows.max(axis=-1) ** 2, 0.25 * gain, rtol=0.01)


def coloured(n, slope, seed):
    """Noise whose power goes with frequency to the power of `slope`."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    frequencies = np.maximum(np.fft.rfftfreq(n, 1 / R), 1.0)
    made = np.fft.irfft(spectrum * frequencies ** (slope / 2), n)
    return (0.1 * made / made.std()).astype(np.float32)


@pytest.mark.parametrize("slope", [-2, -1, 0, 1])
def test_line_spectra_of_noise_of_any_colour_have_mean_one(slope):
    windows, _ = windows_of(coloured(40 * R, slope, 3), R, LINE, 1.0)
    assert len(windows) == 40
    assert windows.mean() == pytest.approx(1.0, abs=0.1)
    # Nor does any part of the band stand out, its ends included: 40 windows of 50 Hz scatter by 2 %.
    parts = [part.mean() for part in np.array_split(windows, 20, axis=1)]
    assert max(parts) < 1.3
    assert min(parts) > 0.7


@pytest.mark.parametrize("rate_hz", [R, 8000, 44100])
@pytest.mark.parametrize("tone_hz", [57.3, 244.0, 700.25, 951.9])
def test_a_line_spectrum_shows_a_tone_at_its_frequency(rate_hz, tone_hz):
    samples = noise(rate_hz, scale=0.05) + 0.05 * np.sin(2 * np.pi * tone_hz * np.arange(rate_hz) / rate_hz)
    (window,), _ = windows_of(samples.astype(np.float32), rate_hz, LINE, 1.0)
    assert abs(LINE.frequencies_hz[window.argmax()] - tone_hz) <= 1 / LINE.zero_pad
    assert window.max() > 100


def test_filters_are_forgotten_with_the_last_stream_of_their_rate():
    """A sender may change its rate with every epoch."""
    audio = AnalysisAudio(240, 80.0, 1.0)
    stays = audio.add(480)
    for rate_hz in range(200, 500):
        audio.remove(audio.add(rate_hz))
    assert list(audio._resamplers) == [480]
    audio.push([(stays, [noise(480)], 1.0)])
    audio.flush(stays)
    assert audio.history.end(stays) == 240


@SPECS
def test_masked_tones_are_gone_and_nothing_else(spec):
    masked_hz, other_hz = 300.0, 612.0
    time = np.arange(R) / R
    tone = np.sin(2 * np.pi * masked_hz * time) + np.sin(2 * np.pi * other_hz * time)
    samples = (noise(R, scale=0.05) + 0.1 * tone).astype(np.float32)

    def window_with(mask_hz):
        audio = AnalysisAudio(R, spec.band_high_hz, spec.window_s)
        features = Features(spec, audio)
        slot = audio.add(R)
        features.begin(slot, mask_hz)
        for part in (samples[: R // 2], samples[R // 2 :]):
            audio.push([(slot, [part], 1.0)])
            features.update([slot])
        return features.windows(np.array([slot]), np.array([0]))[0]

    plain, masked = window_with(()), window_with((masked_hz,))
    changed = np.abs(spec.frequencies_hz - masked_hz) <= 2 * R / spec.frame_samples
    np.testing.assert_array_equal(masked[..., ~changed], plain[..., ~changed])
    near = np.abs(spec.frequencies_hz - masked_hz) <= 1.0 / spec.window_s
    if spec.taper == "hann":  # a boxcar's side lobes reach past any mask
        assert masked[..., near].max() < 0.25 * plain[..., near].max()
    assert masked[..., changed].max() <= plain[..., ~changed].max()
    everything = window_with(tuple(spec.frequencies_hz))
    assert np.isfinite(everything).all()


@SPECS
@pytest.mark.parametrize("rate_hz", [R, 44100])
@pytest.mark.parametrize(
    "sound",
    [
        np.zeros,
        np.ones,
        lambda n: -np.ones(n),
        lambda n: np.sign(np.sin(np.arange(n) * 0.1)),
        lambda n: np.full(n, 1e-40),
        lambda n: 1e-41 * np.sin(np.arange(n)),
        lambda n: np.clip(3 * noise(n), -1, 1),
        lambda n: 1e6 * np.sin(np.arange(n) * 0.1),
        lambda n: np.eye(1, n, n // 2)[0],
    ],
    ids=["silence", "dc", "negative", "square", "denormal", "denormals", "clipped", "loudest", "click"],
)
def test_every_sound_gives_finite_features(sound, rate_hz, spec):
    windows, _ = windows_of(sound(2 * rate_hz).astype(np.float32), rate_hz, spec, 0.5)
    assert len(windows) >= 2
    assert np.isfinite(windows).all()
    assert (windows >= 0).all()


@SPECS
def test_a_spec_survives_json(spec):
    assert FeatureSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert FeatureSpec.from_dict({**spec.to_dict(), "window_s": 2}).window_samples == 2 * R


@SPECS
def test_derived_numbers_agree(spec):
    assert spec.shape == windows_of(noise(R), R, spec, 1.0)[0].shape[1:]
    assert len(spec.frequencies_hz) == spec.n_bins
    assert spec.band_low_hz <= spec.frequencies_hz[0]
    assert spec.frequencies_hz[-1] <= spec.band_high_hz
    assert spec.min_rate_hz == 2223


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kind": "mel"}, "kind 'mel'"),
        ({"taper": "hamming"}, "taper 'hamming'"),
        ({"version": 2}, "version 2"),
        ({"analysis_rate_hz": 0}, "analysis_rate_hz 0"),
        ({"analysis_rate_hz": 200_000}, "analysis_rate_hz 200000"),
        ({"window_s": 0.0}, "window_s 0"),
        ({"window_s": 61.0}, "window_s 61"),
        ({"window_s": 1.0001}, "window_s 1.0001"),
        ({"zero_pad": 0}, "zero_pad 0"),
        ({"zero_pad": 17}, "zero_pad 17"),
        ({"band_low_hz": -1.0}, "band -1..1000"),
        ({"band_low_hz": 1000.0}, "band 1000..1000"),
        ({"band_high_hz": 1500.0}, "band_high_hz 1500 is above 0.45 of analysis_rate_hz 3000"),
        # A filter for this band would be 16 s long: an analysis rate has to hold its band as a stream's has.
        ({"band_high_hz": 1499.9}, "band_high_hz 1499.9"),
        ({"frame_s": 0.0}, "frame_s 0"),
        ({"frame_s": 1.5}, "frame_s 1.5"),
        ({"frame_s": 0.2501}, "frame_s 0.2501"),
        ({"frame_hop_s": 0.0}, "frame_hop_s 0"),
        ({"frame_hop_s": 2.0}, "frame_hop_s 2"),
        ({"kind": "line", "floor_hz": 0.0}, "floor_hz 0"),
        ({"band_low_hz": 401.0, "band_high_hz": 403.0}, "no bin lies in 401..403"),
        ({"window_s": 60.0, "frame_hop_s": 1 / R}, "a window of"),
    ],
)
def test_wrong_values_are_named(changes, named):
    with pytest.raises(BundleError, match=r"^feature spec: ") as raised:
        dataclasses.replace(STFT, **changes)
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"window_s": "1"}, "window_s is '1', expected float"),
        ({"window_s": float("nan")}, "window_s is nan"),
        ({"window_s": float("inf")}, "window_s is inf"),
        ({"window_s": True}, "window_s is True"),
        ({"zero_pad": 1.0}, "zero_pad is 1.0, expected int"),
        ({"zero_pad": True}, "zero_pad is True"),
        ({"kind": None}, "kind is None, expected str"),
        ({"n_mels": 64}, "missing or unknown key: n_mels"),
    ],
)
def test_a_manifest_with_wrong_types_is_named(change, named):
    with pytest.raises(BundleError) as raised:
        FeatureSpec.from_dict({**STFT.to_dict(), **change})
    assert named in str(raised.value)


def test_a_manifest_without_a_key_or_table_is_named():
    table = STFT.to_dict()
    del table["taper"]
    with pytest.raises(BundleError, match="missing or unknown key: taper"):
        FeatureSpec.from_dict(table)
    with pytest.raises(BundleError, match="expected a table, got list"):
        FeatureSpec.from_dict([])
