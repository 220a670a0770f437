"""Bundles on disk: what is written is read back, and whatever was touched is refused."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_bundle import (
    LINE,
    STFT,
    dense_graph,
    make_tiny,
    manifest,
    picture_view,
    put,
    rewrite,
    seal,
    tiny_files,
)

from detectd.bundles import bundle as bundle_module
from detectd.bundles import folders
from detectd.bundles.arrays import npz_bytes
from detectd.bundles.bundle import load_bundle, save_bundle
from detectd.bundles.manifest import Threshold, View
from detectd.bundles.report import report
from detectd.errors import BundleError


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A bundle that no test changes."""
    path = tmp_path_factory.mktemp("shipped") / "tiny.detectd"
    make_tiny(path)
    return path


@pytest.fixture
def path(shipped, tmp_path):
    """A bundle to damage."""
    return shutil.copytree(shipped, tmp_path / "tiny.detectd")


def refusal(path):
    """The message; every refusal within 2 s."""
    began = time.perf_counter()
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    assert time.perf_counter() - began < 2.0
    message = str(caught.value)
    assert message.startswith(f"bundle '{path}': ")
    assert message.isprintable()
    return message


def test_what_is_saved_is_what_is_loaded(tmp_path):
    views = [picture_view(graph="picture.onnx", weight=2.0), View("line", "line.onnx", LINE, weight=0.5)]
    saved = make_tiny(tmp_path / "two.detectd", views, tail={"level": 0.9})
    loaded = load_bundle(tmp_path / "two.detectd")
    assert loaded.manifest == saved.manifest
    assert loaded.manifest.views == tuple(views)
    assert loaded.manifest.tail == {"level": 0.9}
    assert loaded.graphs == {"picture.onnx": dense_graph(STFT), "line.onnx": dense_graph(LINE)}
    assert loaded.arrays["golden.npz"]["rate_hz"] == 8000
    digest = hashlib.sha256((tmp_path / "two.detectd" / "manifest.json").read_bytes()).hexdigest()
    assert loaded.digest == digest == saved.digest
    assert loaded.ident == f"tiny@{digest[:12]}"


def test_digest_file_is_the_digest_and_a_newline(shipped):
    digest = hashlib.sha256((shipped / "manifest.json").read_bytes()).hexdigest()
    assert (shipped / "manifest.sha256").read_bytes() == digest.encode() + b"\n"


def test_the_same_content_gives_the_same_bytes(shipped, tmp_path):
    make_tiny(tmp_path / "again.detectd")
    for file in shipped.iterdir():
        assert (tmp_path / "again.detectd" / file.name).read_bytes() == file.read_bytes()


def test_manifest_says_all_that_the_contract_asks_for(shipped):
    table = json.loads((shipped / "manifest.json").read_bytes())
    assert table["schema"] == 1
    assert table["views"][0]["features"] == STFT.to_dict()
    assert table["views"][0]["input"] == {"name": "windows", "shape": ["batch", *STFT.shape]}
    assert table["views"][0]["output"] == {"name": "score", "shape": ["batch"], "holds": "score"}
    assert table["threshold"] == {"on": 1.0, "off": 0.5, "method": "by hand"}
    assert {"name", "kind", "created", "tail", "calibration", "evaluation", "training"} <= table.keys()
    for name, entry in table["files"].items():
        data = (shipped / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_byte_of_any_file_is_refused(path, data):
    file = data.draw(st.sampled_from(sorted(path.iterdir())))
    original = file.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(original)
    changed[position] ^= flip
    file.write_bytes(changed)
    try:
        refusal(path)
    finally:
        file.write_bytes(original)
    load_bundle(path)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_other_length_of_any_file_is_refused(path, data):
    file = data.draw(st.sampled_from(sorted(path.iterdir())))
    original = file.read_bytes()
    kept = data.draw(st.integers(0, len(original) - 1))
    for changed in (original[:kept], original + b"\n"):
        file.write_bytes(changed)
        try:
            refusal(path)
        finally:
            file.write_bytes(original)


def test_missing_bundle_says_how_to_make_one(tmp_path):
    assert "not found; expected a folder NAME.detectd, made by `detectd-train fit`" in refusal(tmp_path / "no.detectd")


def test_file_instead_of_a_folder(tmp_path):
    (tmp_path / "a.detectd").write_text("x")
    assert "not a folder" in refusal(tmp_path / "a.detectd")


def test_empty_folder(tmp_path):
    assert "manifest.json is missing" in refusal(tmp_path)


def test_every_file_is_needed(path):
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        file.unlink()
        assert f"{file.name} is" in refusal(path)
        file.write_bytes(content)


@pytest.mark.parametrize("name", ["notes.txt", "head.pkl", ".hidden", "manifest.json.bak", "evil\n\x1b[31m.py"])
def test_unlisted_file_is_refused(path, name):
    (path / name).write_bytes(b"")
    assert "remove it" in refusal(path)


def test_folder_of_many_strangers_is_refused_at_once(path):
    for index in range(3000):
        (path / f"{index}").touch()
    assert "remove it" in refusal(path)


def test_sub_folder_is_refused(path):
    (path / "head.npz").mkdir()
    assert "head.npz is not a regular file" in refusal(path)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "backbone.onnx", "golden.npz"])
def test_links_are_refused_even_to_the_right_content(path, tmp_path, name):
    shutil.move(path / name, tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name} is not a regular file" in refusal(path)


def test_pipes_and_sockets_do_not_hang(path):
    os.mkfifo(path / "manifest.sig")
    assert "manifest.sig is not a regular file" in refusal(path)
    (path / "manifest.sig").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path / "manifest.sig"))
        assert "manifest.sig is not a regular file" in refusal(path)


def test_pipe_put_there_after_the_listing_does_not_hang(path, monkeypatch):
    checked = bundle_module._file_names

    def swap(folder):
        names = checked(folder)
        (path / "backbone.onnx").unlink()
        os.mkfifo(path / "backbone.onnx")
        return names

    monkeypatch.setattr(bundle_module, "_file_names", swap)
    assert "backbone.onnx is not a regular file" in refusal(path)


@pytest.mark.parametrize(
    "name", ["../elsewhere", "/etc/passwd", "a/b.onnx", "manifest.json", "..", "", "backbone.onnx\0"]
)
def test_names_out_of_the_folder_are_refused(path, name):
    rewrite(path, lambda table: table["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    assert "manifest.json: files lists" in refusal(path)


def test_signature_file_is_tolerated(path):
    (path / "manifest.sig").write_bytes(b"\0" * 64)
    load_bundle(path)


@pytest.mark.parametrize("content", [b"", b"0" * 64, b"0" * 65, None, "upper", "no newline", "crlf"])
def test_digest_file_is_compared_byte_for_byte(path, content):
    digest = (path / "manifest.sha256").read_bytes()
    variants = {
        "upper": digest.upper(),
        "no newline": digest.strip(),
        "crlf": digest.strip() + b"\r\n",
        None: digest * 2,
    }
    (path / "manifest.sha256").write_bytes(variants.get(content, content))
    assert "manifest.sha256" in refusal(path)


def test_huge_files_are_refused_unread(path):
    os.truncate(path / "manifest.json", 2**40)
    assert "at most 1048576 are expected" in refusal(path)


def test_huge_listed_file_is_refused_unread(path):
    os.truncate(path / "backbone.onnx", 2**40)
    assert "backbone.onnx has 1099511627776 bytes" in refusal(path)
    rewrite(path, lambda table: table["files"]["backbone.onnx"].update(size=2**40))
    assert "files.backbone.onnx.size is 1099511627776, expected" in refusal(path)


def test_many_large_files_are_refused_unread(path):
    names = ["head.npz", "head.pkl", "references.npz"]
    for name in names:
        (path / name).touch()
        os.truncate(path / name, 60 * 2**20)
    entries = {name: {"size": 60 * 2**20, "sha256": "0" * 64} for name in names}
    rewrite(path, lambda table: table["files"].update(entries))
    assert "bytes together" in refusal(path)


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_a_pickle_is_hashed_and_never_opened(path, tmp_path):
    put(path, "head.pkl", pickle.dumps(Trap(tmp_path / "executed")))
    loaded = load_bundle(path)
    assert "head.pkl" in loaded.manifest.files
    assert "head.pkl" not in {**loaded.graphs, **loaded.arrays}
    (path / "head.pkl").write_bytes(b"\0" * (path / "head.pkl").stat().st_size)
    assert "head.pkl has been changed" in refusal(path)
    assert not (tmp_path / "executed").exists()


def test_pickled_arrays_are_never_unpickled(path, tmp_path):
    with (tmp_path / "golden.npz").open("wb") as stream:
        np.savez(stream, clip_0=np.array([Trap(tmp_path / "executed")], object))
    put(path, "golden.npz", (tmp_path / "golden.npz").read_bytes())
    assert "golden.npz: array clip_0: not a plain array" in refusal(path)
    assert not (tmp_path / "executed").exists()


def test_names_out_of_a_graph_cannot_write_to_the_terminal(path):
    put(path, "backbone.onnx", dense_graph(STFT).replace(b"ReduceMean", b"\n\x1b[31m Evil"[:10]))
    assert "not accepted" in refusal(path)


def test_bad_graph_is_refused_by_name(path):
    put(path, "backbone.onnx", b"\x08\x08\xff")
    assert "backbone.onnx: no valid protobuf" in refusal(path)


def test_graph_must_take_what_the_features_give(path):
    put(path, "backbone.onnx", dense_graph(LINE))
    message = refusal(path)
    assert "backbone.onnx: its inputs are 'windows' (batch, 1761), expected 'windows' (batch, 7, 221)" in message


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("backbone.onnx", "lists no backbone.onnx"),
        ("golden.npz", "lists no golden.npz"),
    ],
)
def test_what_the_kind_needs_must_be_listed(path, listed, reason):
    (path / listed).unlink()
    rewrite(path, lambda table: table["files"].pop(listed))
    assert reason in refusal(path)


@pytest.mark.parametrize(("kind", "needs"), [("one-class", "head.npz"), ("few-shot", "references.npz")])
def test_other_kinds_load_with_their_arrays(path, kind, needs):
    rewrite(path, lambda table: table.update(kind=kind))
    assert f"lists no {needs}" in refusal(path)
    put(path, needs, npz_bytes({"labels": np.array(["demo"]), "embeddings": np.ones((1, 4), np.float32)}))
    loaded = load_bundle(path)
    assert loaded.manifest.kind == kind
    assert loaded.arrays[needs]["labels"].tolist() == ["demo"]


def test_graph_that_no_view_uses_is_refused(path):
    put(path, "line.onnx", dense_graph(LINE))
    assert "lists line.onnx, which none of its views names" in refusal(path)


def test_saving_replaces_a_bundle_whole(path):
    before = load_bundle(path)
    make_tiny(path, label="other")
    after = load_bundle(path)
    assert after.manifest.label == "other"
    assert after.digest != before.digest
    assert [child.name for child in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o755


def test_an_open_bundle_survives_being_replaced(path, monkeypatch):
    """A daemon that loads while `enroll` rewrites gets the old bundle or the new one, never a mixture."""
    checked = bundle_module._file_names

    def replace(folder):
        names = checked(folder)
        monkeypatch.setattr(bundle_module, "_file_names", checked)
        make_tiny(path, label="other")
        return names

    monkeypatch.setattr(bundle_module, "_file_names", replace)
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(path)
    assert load_bundle(path).manifest.label == "other"


def test_there_is_a_bundle_at_every_moment_of_replacing_it(path, monkeypatch):
    """Every rename is watched: none may leave nothing at the name."""
    seen = []
    rename = Path.rename

    def watched(self, target):
        result = rename(self, target)
        seen.append((path / "manifest.json").exists())
        return result

    monkeypatch.setattr(Path, "rename", watched)
    make_tiny(path, label="other")
    assert all(seen)
    assert load_bundle(path).manifest.label == "other"


@pytest.mark.parametrize("exchange", [True, False])
def test_failed_save_leaves_the_old_bundle(path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(folders, "_exchanged", lambda *_: False)
    before = load_bundle(path).digest
    with pytest.raises(BundleError, match=r"backbone\.onnx"):
        make_tiny(path, files=tiny_files() | {"backbone.onnx": b"no graph"})
    with pytest.raises(BundleError, match=r"files lists 'setup\.py'"):
        make_tiny(path, files=tiny_files() | {"setup.py": b""})
    assert load_bundle(path).digest == before
    assert [child.name for child in path.parent.iterdir()] == [path.name]
    make_tiny(path, label="other")
    assert load_bundle(path).manifest.label == "other"
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_saving_through_a_link_replaces_what_it_points_to(path, tmp_path):
    link = tmp_path / "current.detectd"
    link.symlink_to(path)
    make_tiny(link, label="other")
    assert link.is_symlink()
    assert load_bundle(path).manifest.label == load_bundle(link).manifest.label == "other"


def test_saving_elsewhere_is_refused(tmp_path):
    (tmp_path / "recordings.detectd").mkdir()
    (tmp_path / "recordings.detectd" / "a.wav").touch()
    for name, reason in [
        ("a.bundle", r"ends in \.detectd"),
        ("recordings.detectd", "is there and is no bundle"),
        ("no/folder.detectd", "cannot be written"),
    ]:
        with pytest.raises(BundleError, match=reason):
            make_tiny(tmp_path / name)
    assert (tmp_path / "recordings.detectd" / "a.wav").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": Threshold(float("nan"), 0.0, "x")},
        {"threshold": Threshold(0.0, 0.5, "x")},
        {"training": {"loss": float("inf")}},
        {"training": {"when": object()}},
        {"label": "red\x1b[31m"},
    ],
)
def test_a_manifest_that_would_be_refused_is_not_written(tmp_path, changes):
    with pytest.raises(BundleError):
        make_tiny(tmp_path / "x.detectd", **changes)
    assert list(tmp_path.iterdir()) == []


def test_unknown_keys_are_carried_at_the_top_only(path):
    rewrite(path, lambda table: table.update(licence="CC0"))
    assert load_bundle(path).table["licence"] == "CC0"
    rewrite(path, lambda table: table["threshold"].update(hold=3))
    assert "threshold.'hold' is not known" in refusal(path)


def test_report_says_what_it_is(shipped):
    text = report(load_bundle(shipped))
    for part in (
        "tiny: binary, finds hum",
        "20-900 Hz",
        "7 frames of 0.25 s",
        "on 1, off 0.5",
        "auc: 0.5",
        "golden.npz",
    ):
        assert part in text


def test_views_share_their_window(tmp_path):
    views = [picture_view(graph="picture.onnx"), View("line", "line.onnx", dataclasses.replace(LINE, window_s=2.0))]
    with pytest.raises(BundleError, match="window_s 2"):
        save_bundle(tmp_path / "x.detectd", manifest(views), {})


def test_sealing_alone_is_accepted(path):
    """What the tests above change is refused for the change, not for the seal they put on it."""
    seal(path, (path / "manifest.json").read_bytes())
    rewrite(path, lambda _: None)
    put(path, "golden.npz", (path / "golden.npz").read_bytes())
    load_bundle(path)
