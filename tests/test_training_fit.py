"""`detectd-train fit binary` end to end, as a user runs it."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from training_corpus import RATE_HZ, SIGNATURE, TRAIN, fit, one_line_error, train, write_corpus

from detectd.bundles.scoring import open_detector_bundle
from detectd.dsp.clips import read_clip
from detectd.dsp.features import windows_of
from detectd.dsp.synth import clip, random_negative
from training.cli import main

SAME_SEED_TOLERANCE = 1e-6
"""Of scores from two runs with one seed on one machine: sums keep their order, so this is rounding to spare."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "tones.detectd"
    done = fit(corpus, out, "--seed", "3", "--json")
    assert done.returncode == 0, done.stderr
    return open_detector_bundle(out), json.loads(done.stdout), done.stderr


def scores_of(scorer, samples, rate_hz=RATE_HZ):
    windows, _ = windows_of(samples, rate_hz, scorer.bundle.manifest.views[0].spec, 0.25)
    return scorer.score([windows])


def test_the_bundle_finds_its_signature_in_clips_it_never_heard(trained):
    scorer, _, _ = trained
    rng = np.random.default_rng(99)
    on = scorer.bundle.manifest.threshold.on
    positives = [scores_of(scorer, clip(SIGNATURE, -5, 1.0, RATE_HZ, rng)).mean() for _ in range(50)]
    negatives = [scores_of(scorer, clip(random_negative(rng), -5, 1.0, RATE_HZ, rng)).mean() for _ in range(50)]
    assert np.mean(np.array(positives) >= on) > 0.9
    assert np.mean(np.array(negatives) >= on) < 0.1


def test_the_summary_and_the_manifest_say_the_same(trained):
    scorer, summary, stderr = trained
    manifest = scorer.bundle.manifest
    assert summary["digest"] == scorer.bundle.digest
    assert summary["threshold"] == {"on": manifest.threshold.on, "off": manifest.threshold.off}
    assert manifest.threshold.off < manifest.threshold.on
    assert manifest.evaluation["held_out"] == summary["held_out"]
    assert manifest.training["clips"] == {"positive": 24, "negative": 24}
    assert manifest.training["options"]["seed"] == 3
    assert set(manifest.training["data_sha256"]) == {"positive", "negative"}
    assert manifest.training["versions"]["torch"]
    assert "window 1 s" in stderr
    assert "band " in stderr


def test_the_plain_summary(corpus, tmp_path):
    done = fit(corpus, tmp_path / "plain.detectd", "--epochs", "2", "--backbone", "lenet", "--band", "50:950")
    assert done.returncode == 0, done.stderr
    for word in ("lenet", "24 positive and 24 negative", "50-950 Hz", "accuracy", "AUC", "baseline", "threshold"):
        assert word in done.stdout


def test_the_same_seed_gives_the_same_scores(corpus, trained, tmp_path):
    scorer, _, _ = trained
    assert fit(corpus, tmp_path / "again.detectd", "--seed", "3").returncode == 0
    again = open_detector_bundle(tmp_path / "again.detectd")
    sound = clip(SIGNATURE, -8, 5.0, RATE_HZ, np.random.default_rng(1))
    np.testing.assert_allclose(scores_of(again, sound), scores_of(scorer, sound), rtol=0, atol=SAME_SEED_TOLERANCE)


@pytest.mark.parametrize("gain_db", [-20, 20])
def test_level_is_no_cue(trained, gain_db):
    scorer, _, _ = trained
    for seed in range(5):
        sound = clip(SIGNATURE if seed % 2 else None, -8, 2.0, RATE_HZ, np.random.default_rng(seed))
        moved = scores_of(scorer, sound * np.float32(10 ** (gain_db / 20)))
        assert np.abs(moved - scores_of(scorer, sound)).max() < 1e-3


def test_ctrl_c_keeps_the_best_so_far(corpus, tmp_path):
    out = tmp_path / "cut.detectd"
    command = [*TRAIN, "fit", "binary", "--positive", corpus / "positive", "--negative", corpus / "negative"]
    # Not a terminal, so the first line of progress comes after 15 s; the band is named just before training begins.
    process = subprocess.Popen(
        [*command, "--out", out, "--epochs", "2000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("band "):
            break
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "stopped by you" in stderr
    assert "threshold" in stdout
    assert open_detector_bundle(out).bundle.manifest.training["result"]["interrupted"] is True


def test_csv_lists_segments_sessions_and_the_label(tmp_path):
    rng = np.random.default_rng(0)
    for name, signature in (("yes", SIGNATURE), ("no", None)):
        rows = ["path,start_s,end_s,label,session"]
        for number in range(4):
            sound = np.stack([clip(signature, 0, 6.0, 16_000, rng)] * 2, axis=1)
            soundfile.write(tmp_path / f"{name}{number}.flac", sound, 16_000)
            rows += [f"{name}{number}.flac,{start},{start + 2},whistle,s{name}{number // 2}" for start in (0, 2, 4)]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
    arguments = ["--positive", "yes.csv", "--background", "no.csv", "--out", "w.detectd", "--window", "1", "--json"]
    done = train("fit", "binary", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    training = json.loads(done.stdout)["training"]
    assert json.loads(done.stdout)["label"] == "whistle"
    # Both channels are the same, so each segment counts once; two files of one session are one recording.
    assert training["clips"] == {"positive": 12, "negative": 12}
    assert training["recordings"] == {"positive": 2, "negative": 2}
    assert training["held_out_clips"] == 12


def test_a_bad_file_among_good_ones_is_named_and_left_out(corpus, tmp_path):
    folder = write_corpus(tmp_path / "mixed", n_clips=12, seed=5)
    (folder / "positive" / "broken.wav").write_bytes(b"RIFF not audio at all")
    (folder / "positive" / "copy.wav").write_bytes((folder / "positive" / "001.wav").read_bytes())
    nan = np.full(RATE_HZ, np.nan, np.float32)
    soundfile.write(folder / "negative" / "nan.wav", nan, RATE_HZ, subtype="FLOAT")
    soundfile.write(folder / "negative" / "silence.wav", np.zeros(RATE_HZ), RATE_HZ)
    samples, _ = read_clip(folder / "negative" / "000.wav")
    soundfile.write(folder / "negative" / "short.wav", samples[: RATE_HZ // 2], RATE_HZ)
    done = fit(folder, tmp_path / "m.detectd", "--window", "1", "--epochs", "3", "--json")
    assert done.returncode == 0, done.stderr
    for name in ("broken.wav", "nan.wav", "silence.wav", "short.wav"):
        assert sum(name in line for line in done.stderr.splitlines()) == 1
    assert "1 clips that are exact copies" in done.stderr
    assert json.loads(done.stdout)["training"]["skipped_files"] == 5


def bad(tmp_path, corpus):
    """Arguments that must be refused, with words the message must hold."""
    few = write_corpus(tmp_path / "few", n_clips=1)
    silent = tmp_path / "silent"
    silent.mkdir()
    soundfile.write(silent / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("file,label\nx.wav,y\n")
    (tmp_path / "time.csv").write_text("path,start_s,end_s\nx.wav,3,two\n")
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    (renamed / "other-name.wav").write_bytes((corpus / "positive" / "003.wav").read_bytes())
    yes, no = ["--positive", corpus / "positive"], ["--negative", corpus / "negative"]
    out = ["--out", tmp_path / "bad.detectd"]
    return {
        "one class": ([*yes, *out], ["--negative", "--background"]),
        "missing": ([*yes, "--negative", tmp_path / "nowhere", *out], ["nowhere", "not found"]),
        "no audio": ([*yes, "--negative", tmp_path / "empty", *out], ["empty", "no audio files"]),
        "too few": ([*no, "--positive", few / "positive", *out], ["1 usable positive", "at least 2"]),
        "same side": ([*yes, "--negative", corpus, *out], ["both positive and negative"]),
        "same audio": ([*yes, *no, "--negative", renamed, *out], ["other-name.wav", "same audio"]),
        "short": ([*yes, *no, "--window", "2", *out], ["none of the 24 positive clips", "2 s", "longest: 1 s"]),
        "silence": ([*yes, "--negative", silent, *out], ["none of the 1 negative files", "silence"]),
        "column": ([*yes, "--negative", tmp_path / "bad.csv", *out], ["bad.csv", "no column 'path'"]),
        "seconds": ([*yes, "--negative", tmp_path / "time.csv", *out], ["time.csv line 2", "end_s", "'two'"]),
        "window": ([*yes, *no, "--window", "0.3", *out], ["--window 0.3", "0.5 to 10"]),
        "band": ([*yes, *no, "--band", "900:100", *out], ["--band 900:100", "LO < HI"]),
        "rate": ([*yes, *no, "--band", "100:3900", *out], ["8000 samples/s", "at least 8667"]),
        "name": ([*yes, *no, "--out", tmp_path / "bundle"], ["ending in .detectd"]),
        "folder": ([*yes, *no, "--out", tmp_path / "no" / "x.detectd"], ["there is no folder"]),
    }


def test_bad_input_is_one_clear_line_and_no_bundle(tmp_path, corpus):
    for name, (arguments, words) in bad(tmp_path, corpus).items():
        # In this process: importing torch fifteen times over is all that real ones would add.
        done = CliRunner().invoke(main, ["fit", "binary", *map(str, arguments)])
        assert (done.exit_code, done.stdout) == (1, ""), (name, done)
        *_, line = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert all(word in line for word in words), (name, line)
    assert not (tmp_path / "bad.detectd").exists()


def test_bad_input_to_a_real_process(tmp_path, corpus):
    line = one_line_error(fit(corpus, tmp_path / "bad.detectd", "--window", "2"))
    assert "none of the 24 positive clips" in line


def test_usage_errors_are_clicks_own(tmp_path):
    done = train("fit", "binary", "--positive", tmp_path, "--negative", tmp_path, "--out", "x.detectd", "--band", "low")
    assert done.returncode == 2
    assert "expected LO:HI" in done.stderr
