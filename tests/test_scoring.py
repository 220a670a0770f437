"""Scores: the numbers of a twin in numpy, whatever the batch, and a bundle that computes anything else is refused."""

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
from onnx import helper
from tiny_bundle import (
    LINE,
    RATE_HZ,
    STFT,
    clips,
    dense_graph,
    dense_scores,
    make_tiny,
    model,
    picture_view,
    put,
    rewrite,
    tiny_files,
    weights,
)

from detectd.bundles.arrays import npz_bytes, read_npz
from detectd.bundles.bundle import load_bundle
from detectd.bundles.manifest import View
from detectd.bundles.scoring import LOWEST_SCORE, Scorer, open_detector_bundle
from detectd.dsp.features import windows_of
from detectd.errors import BundleError
from detectd.onnx_guard.graph import MAX_BATCH

TWO = (picture_view(graph="picture.onnx", weight=2.0), View("line", "line.onnx", LINE, weight=-0.5))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny.detectd").path


@pytest.fixture
def path(tmp_path):
    return make_tiny(tmp_path / "tiny.detectd").path


def windows(spec, count):
    return np.abs(np.random.default_rng(count).standard_normal((count, *spec.shape))).astype(np.float32)


def with_graph(path, nodes, constants=None):
    """Give the bundle another graph."""
    put(path, "backbone.onnx", model(nodes, {"windows": ("b", *STFT.shape)}, {"score": ("b",)}, constants or {}))


@pytest.mark.parametrize("count", [1, 3, 8, MAX_BATCH, MAX_BATCH + 1, 100])
def test_scores_are_those_of_the_twin(tiny, count):
    scorer = open_detector_bundle(tiny)
    batch = windows(STFT, count)
    scores = scorer.score([batch])
    assert scores.shape == (count,)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, dense_scores(STFT, batch), rtol=1e-4, atol=1e-5)


def test_no_windows_no_scores(tiny):
    scores, labels = open_detector_bundle(tiny).score_labelled([windows(STFT, 0)])
    assert scores.shape == (0,)
    assert labels is None


def test_a_score_depends_on_its_window_alone(tiny):
    scorer = open_detector_bundle(tiny)
    batch = windows(STFT, 70)
    alone = np.concatenate([scorer.score([batch[i : i + 1]]) for i in range(len(batch))])
    np.testing.assert_allclose(scorer.score([batch]), alone, rtol=1e-5, atol=1e-6)


def test_views_are_summed_by_weight(tmp_path):
    make_tiny(tmp_path / "two.detectd", TWO)
    scorer = open_detector_bundle(tmp_path / "two.detectd")
    pictures, spectra = windows(STFT, 40), windows(LINE, 40)
    expected = 2.0 * dense_scores(STFT, pictures) - 0.5 * dense_scores(LINE, spectra)
    np.testing.assert_allclose(scorer.score([pictures, spectra]), expected, rtol=1e-4, atol=1e-5)


def test_golden_scores_are_those_of_a_clip(tiny):
    golden = load_bundle(tiny).arrays["golden.npz"]
    scorer = open_detector_bundle(tiny)
    for index, clip in enumerate(clips()):
        found = scorer.score([windows_of(clip, RATE_HZ, STFT, STFT.window_s)[0]])
        assert len(found) == 2
        np.testing.assert_allclose(found, golden[f"scores_{index}"], rtol=1e-4, atol=1e-5)


def test_labels_of_a_binary_bundle(tiny):
    scorer = open_detector_bundle(tiny)
    assert scorer.labels == ("hum",)
    assert scorer.score_labelled([windows(STFT, 2)])[1] is None


def test_what_is_no_number_becomes_the_lowest_score_and_counts(path):
    with_graph(
        path,
        [
            helper.make_node("ReduceSum", ["windows", "axes"], ["sum"], keepdims=0),
            helper.make_node("Log", ["sum"], ["score"]),
        ],
        {"axes": np.array([1, 2])},
    )
    scorer = Scorer(load_bundle(path))
    batch = windows(STFT, 40)
    batch[3], batch[35] = 0, -1
    scores = scorer.score([batch])
    assert np.isfinite(scores).all()
    assert scores[3] == scores[35] == LOWEST_SCORE < scores[np.arange(40) % 32 != 3].min()
    assert scorer.non_finite == 2


def test_a_graph_that_gives_no_number_for_silence_is_refused(path):
    nodes = [
        helper.make_node("ReduceMean", ["windows", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "mean"], ["score"]),  # 0/0 where there is no sound
    ]
    with_graph(path, nodes, {"axes": np.array([1, 2])})
    golden = dict(read_npz((path / "golden.npz").read_bytes()))
    golden |= {name: np.ones_like(array) for name, array in golden.items() if name.startswith("scores")}
    put(path, "golden.npz", npz_bytes(golden))
    with pytest.raises(BundleError, match=r"its score of silence is not a finite number"):
        open_detector_bundle(path)


def changed_golden(path, change):
    arrays = dict(read_npz((path / "golden.npz").read_bytes()))
    change(arrays)
    put(path, "golden.npz", npz_bytes(arrays))


GOLDEN = {
    "another score": (lambda a: a.update(scores_1=a["scores_1"] + np.float32(1e-3)), "scores_1 differs by up to 0.001"),
    "another feature": (
        lambda a: a.update(features_picture_0=a["features_picture_0"] * np.float32(1.0001)),
        "features_picture_0 differs",
    ),
    "another sound": (lambda a: a.update(clip_0=a["clip_0"][::-1]), "features_picture_0 differs"),
    "another rate": (lambda a: a.update(rate_hz=np.array(16000)), "features_picture_0 is float32 .* expected"),
    "no scores": (lambda a: a.pop("scores_0"), "scores_0 is missing"),
    "no features": (lambda a: a.pop("features_picture_1"), "features_picture_1 is missing"),
    "no clips": (lambda a: [a.pop(name) for name in list(a) if name.startswith("clip")], "0 clips, expected 1 to 16"),
    "no rate": (lambda a: a.pop("rate_hz"), "rate_hz is None"),
    "no such rate": (lambda a: a.update(rate_hz=np.array(10**9)), "rate_hz is 1000000000"),
    "a stranger": (lambda a: a.update(scores_7=a["scores_0"]), "scores_7 belongs to no clip"),
    "a short clip": (lambda a: a.update(clip_0=a["clip_0"][:100]), "shorter than one window"),
    "a long clip": (lambda a: a.update(clip_0=np.zeros(200 * RATE_HZ, np.float32)), "202 s of audio, at most"),
    "many windows": (
        lambda a: a.update(clip_0=np.zeros(40 * RATE_HZ, np.float32)),
        "42 windows of 3500 transform points",
    ),
    "doubles": (lambda a: a.update(clip_0=a["clip_0"].astype(np.float64)), "clip_0 is float64"),
    "fewer windows": (lambda a: a.update(scores_0=a["scores_0"][:1]), "scores_0 is float32"),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_clips_must_agree(path, case):
    change, reason = GOLDEN[case]
    changed_golden(path, change)
    began = time.perf_counter()
    with pytest.raises(BundleError, match=rf"bundle '.*tiny.detectd': golden.npz: .*({reason})"):
        open_detector_bundle(path)
    assert time.perf_counter() - began < 2.0


def test_rewritten_golden_alone_is_accepted(path):
    changed_golden(path, lambda _: None)
    open_detector_bundle(path)


def test_other_weights_are_found_by_the_golden_clips(path):
    """Hashes in order, graph sound, features right: only the numbers tell."""
    graph = bytearray(dense_graph(STFT))
    sign = graph.index(weights(STFT).tobytes()) + 4 * 40 + 3
    graph[sign] ^= 0x80  # the fortieth weight the other way round
    put(path, "backbone.onnx", bytes(graph))
    load_bundle(path)
    with pytest.raises(BundleError, match=r"golden\.npz: scores_0 differs"):
        open_detector_bundle(path)


def test_a_graph_the_runtime_refuses_is_one_clear_line(path):
    # Element types are left to the runtime: here float64 is added to float32.
    nodes = [
        helper.make_node("ReduceMean", ["windows", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "two"], ["score"]),
    ]
    with_graph(path, nodes, {"axes": np.array([1, 2]), "two": np.float64(2)})
    with pytest.raises(BundleError, match=r"backbone\.onnx is refused by ONNX Runtime") as caught:
        open_detector_bundle(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("kind", "needs"), [("one-class", "head.npz"), ("few-shot", "references.npz")])
def test_kinds_to_come_say_what_can_be_scored(path, kind, needs):
    put(path, needs, npz_bytes({"a": np.ones(3)}))
    rewrite(path, lambda table: table.update(kind=kind))
    with pytest.raises(BundleError, match=rf"kind '{kind}' cannot be scored by detectd .*, which scores: binary"):
        open_detector_bundle(path)


def test_binary_needs_a_score(tmp_path):
    view = dataclasses.replace(picture_view(), output="embedding", output_shape=(STFT.n_bins,))
    nodes = [helper.make_node("ReduceMean", ["windows", "one"], ["score"], keepdims=0)]
    graph = model(nodes, {"windows": ("b", *STFT.shape)}, {"score": ("b", STFT.n_bins)}, {"one": np.array([1])})
    make_tiny(tmp_path / "x.detectd", [view], tiny_files() | {"backbone.onnx": graph})
    with pytest.raises(BundleError, match="gives an embedding"):
        open_detector_bundle(tmp_path / "x.detectd")


def test_ready_within_a_fraction_of_the_budget(tiny):
    open_detector_bundle(tiny)
    began = time.perf_counter()
    open_detector_bundle(tiny)
    assert time.perf_counter() - began < 0.5


def test_loading_says_nothing_on_stderr_and_brings_in_no_training_package(tiny):
    code = (
        "import sys; from detectd.bundles.scoring import open_detector_bundle; "
        "open_detector_bundle(sys.argv[1]); "
        "print(sorted({'torch', 'onnx', 'sklearn', 'librosa', 'pickle5'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""
