"""manifest.json: what a stranger may write into it."""

import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import manifest, picture_view

from detectd.bundles.manifest import FileEntry, manifest_bytes, parse_manifest
from detectd.errors import BundleError

ENTRY = FileEntry(3, "0" * 64)
GOOD = manifest_bytes(manifest([picture_view()]).with_files({"backbone.onnx": ENTRY, "golden.npz": ENTRY}))


def at(*keys_and_value):
    """A change of the table: the last argument is put where the others lead."""
    *keys, last, value = keys_and_value

    def change(table):
        for key in keys:
            table = table[key]
        table[last] = value

    return change


def without(*keys):
    *path, last = keys

    def change(table):
        for key in path:
            table = table[key]
        del table[last]

    return change


def parsed(change):
    table = json.loads(GOOD)
    change(table)
    return parse_manifest(json.dumps(table).encode())


BAD = [
    (at("schema", 2), "schema 2, this detectd reads schema 1"),
    (at("schema", True), "schema is True, expected int"),
    (at("schema", "1"), "schema is '1', expected int"),
    (without("schema"), "schema is missing"),
    (at("name", "../x"), "name is '../x', expected letters"),
    (at("name", "a\n"), "expected letters"),
    (at("name", "n" * 65), "expected letters"),
    (at("name", ""), "expected letters"),
    (at("kind", "ternary"), "kind is 'ternary', expected binary or one-class or few-shot"),
    (at("kind", None), "kind is None, expected str"),
    (at("label", "\x1b[31m"), "printable characters"),
    (at("label", "x" * 101), "1 to 100 printable"),
    (at("label", "\ud800"), "printable characters"),
    (at("created", "yesterday"), "expected a UTC time"),
    (at("views", []), "at least one"),
    (at("views", {}), "views is {}, expected list"),
    (at("views", [3]), r"views\[0\] is 3, expected an object"),
    (at("views", 0, "name", "sound"), r"views\[0\].name is 'sound', expected picture or line or texture"),
    (at("views", 0, "graph", "../backbone.onnx"), "expected 'backbone.onnx'"),
    (at("views", 0, "graph", "picture.onnx"), "expected 'backbone.onnx'"),
    (at("views", 0, "weight", "1"), r"views\[0\].weight is '1', expected float"),
    (at("views", 0, "weight", 10**400), "expected a finite number"),
    (at("views", 0, "weight", False), "weight is False"),
    (at("views", 0, "code", "x"), r"views\[0\].'code' is not known"),
    (at("views", 0, "input", "shape", ["batch", 7, 222]), "which is what its features give"),
    (at("views", 0, "input", "shape", [1, 7, 221]), "which is what its features give"),
    (at("views", 0, "output", "shape", ["batch", 1]), r"\['batch'\] for a score"),
    (at("views", 0, "output", "holds", "embedding"), r"\['batch', size\] for an embedding"),
    (at("views", 0, "output", "holds", "sound"), "expected score or embedding"),
    (at("views", 0, "output", "more", 1), r"views\[0\].output.'more' is not known"),
    (at("views", 0, "features", "version", 99), r"views\[0\].features: .*version 99"),
    (at("views", 0, "features", "taper", "kaiser"), "taper 'kaiser'"),
    (at("views", 0, "features", "gain", 1.0), r"views\[0\].features: .*gain"),
    (at("views", 0, "features", "window_s", 1e9), "window_s"),
    (at("views", 0, "features", "window_s", 10**400), "features"),
    (at("views", 0, "features", "frame_hop_s", 1 / 2000), r"views\[0\].input.shape"),
    (at("views", 0, "features", "zero_pad", 16), r"views\[0\].input.shape"),
    (
        lambda table: table["views"][0]["features"].update(band_high_hz=21.0, window_s=60.0, frame_hop_s=1 / 2000),
        "119501 transforms of 500 points a window are too many",
    ),
    (at("views", 0, "features", 3), r"views\[0\].features is 3, expected dict"),
    (at("threshold", "off", 1.5), "threshold.off 1.5 is above threshold.on 1"),
    (at("threshold", "on", None), "threshold.on is None, expected float"),
    (at("threshold", "extra", 1), "threshold.'extra' is not known"),
    (without("threshold", "method"), "threshold.method is missing"),
    (at("tail", []), r"tail is \[\], expected dict"),
    (at("evaluation", None), "evaluation is None, expected dict"),
    (without("training"), "training is missing"),
    (at("files", []), "files is"),
    (at("files", "head.pkl", 3), "files.head.pkl is 3, expected an object"),
    (at("files", "golden.npz", "size", -1), "expected 0 to"),
    (at("files", "golden.npz", "size", 1.0), "expected int"),
    (at("files", "golden.npz", "sha256", "0" * 63), "expected 64 lower-case hex digits"),
    (at("files", "golden.npz", "sha256", "F" * 64), "expected 64 lower-case hex digits"),
    (at("files", "golden.npz", "mode", 0o777), "is not known"),
    (at("files", "x.onnx", {}), "files lists 'x.onnx', expected only backbone.onnx"),
]


@pytest.mark.parametrize(("change", "reason"), BAD)
def test_a_bad_value_is_named_with_what_is_expected(change, reason):
    with pytest.raises(BundleError, match=reason):
        parsed(change)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe{}",
        b"{}garbage",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        GOOD.replace(b'"on": 1.0', b'"on": NaN'),
        GOOD.replace(b'"on": 1.0', b'"on": Infinity'),
        GOOD.replace(b'"on": 1.0', b'"on": 1e999'),
        GOOD.replace(b'"seed": 3', b'"seed": 1e999'),
        GOOD.replace(b'"seed": 3', b'"seed": ' + b"9" * 5000),
        GOOD.replace(b'"schema": 1', b'"schema": 1, "schema": 1'),
    ],
)
def test_what_is_no_plain_json_object_is_refused(data):
    assert data != GOOD
    with pytest.raises(BundleError):
        parse_manifest(data)


def test_numbers_may_be_written_as_integers():
    assert parsed(at("threshold", "on", 2)).threshold.on == 2.0


def test_writing_gives_what_reading_takes():
    assert manifest_bytes(parse_manifest(GOOD)) == GOOD
    assert GOOD.endswith(b"}\n")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def leaves(value, path=()):
    """Every path into the table."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from leaves(child, (*path, key))


PATHS = [path for path in leaves(json.loads(GOOD)) if path]


@given(st.sampled_from(PATHS), json_values)
def test_any_value_anywhere_is_accepted_or_refused_by_a_bundle_error(path, value):
    try:
        found = parsed(partial(at(*path, value)))
    except BundleError:
        return
    manifest_bytes(found)
