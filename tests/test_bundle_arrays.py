"""npz files that somebody else wrote."""

import io
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detectd.bundles.arrays import MAX_BYTES, npz_bytes, read_npz
from detectd.errors import BundleError

DTYPES = st.sampled_from(["<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u4", "<u8"])
GOOD = npz_bytes({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "labels": np.array(["pump", "ship"])})


def member(header, body=b"", version=b"\x01\x00"):
    """The bytes of one npy file with a header written by hand."""
    header = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + body


def header(descr="'<f4'", order="False", shape="(1,)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def archive(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(f"{name}.npy", content)
    return stream.getvalue()


def saved(*arrays, **named):
    stream = io.BytesIO()
    np.savez_compressed(stream, *arrays, **named)
    return stream.getvalue()


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z_0-9]{1,20}", fullmatch=True), hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0))
    )
)
def test_what_is_written_is_read(arrays):
    arrays = {name: np.where(np.isfinite(array), array, 0).astype(array.dtype) for name, array in arrays.items()}
    for data in (npz_bytes(arrays), saved(**arrays)):
        found = read_npz(data)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
            assert not found[name].flags.writeable


def test_fortran_order_is_read_as_numpy_does():
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    assert np.array_equal(read_npz(saved(a=array))["a"], array)


def test_writing_does_not_depend_on_the_clock():
    assert npz_bytes({"a": np.ones(3)}) == npz_bytes({"a": np.ones(3)})
    with zipfile.ZipFile(io.BytesIO(npz_bytes({"a": np.ones(3)}))) as zipped:
        assert zipped.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([{}], object), "not a plain array"),
        (np.array([1 + 2j]), "not a plain array"),
        (np.array([True]), "not a plain array"),
        (np.array([b"x"]), "not a plain array"),
        (np.array(["2026-01-01"], "M8[s]"), "not a plain array"),
        (np.zeros(2, [("a", "f4")]), "not a plain array"),
        (np.ones(2, ">f4"), "not a plain array"),
        (np.ones(2, np.float16), "elements of type f2"),
        (np.ones(2, np.longdouble), "elements of type f16"),
        (np.array(["x" * 257]), "elements of type U257"),
        (np.array([np.nan]), "not finite"),
        (np.array([1.0, np.inf], np.float32), "not finite"),
        (np.array(["a\x1b[31m"]), "not printable"),
        (np.zeros((1,) * 9), "rank 9"),
        (np.full(70_000, "x"), "70000 texts"),
    ],
)
def test_other_arrays_are_refused(array, reason):
    with pytest.raises(BundleError, match=f"array bad: .*{reason}"):
        read_npz(saved(bad=array))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        member(header()),
        member(header(), b"\0" * 5),
        member(header(shape="(1000000000000,)"), b"\0" * 4),
        member(header(shape="(99999999999999,)"), b"\0" * 4),
        member(header(shape="(-1,)"), b"\0" * 4),
        member(header(shape="(1, 1.0)"), b"\0" * 4),
        member(header(descr="'<f3'"), b"\0" * 3),
        member(header(descr="'<f0'")),
        member(header(descr="'<f4', 'x': __import__('os')"), b"\0" * 4),
        member(header() * 2, b"\0" * 4),
        member("(" * 9000, b"\0" * 4),
        member(header(), b"\0" * 4, version=b"\x02\x00"),
        member(header(descr="'<U1'"), b"\xff\xff\xff\xff"),
        b"\x80\x04c__builtin__\nprint\n.",
    ],
)
def test_headers_that_numpy_does_not_write_are_refused(content):
    with pytest.raises(BundleError):
        read_npz(archive(a=content))


def test_a_header_by_hand_can_be_right():
    """What the cases above change is what refuses them."""
    assert read_npz(archive(a=member(header(), np.float32([7]).tobytes())))["a"].tolist() == [7.0]


def bomb(declared=None):
    """300 MB of zeros in a few hundred kB; its directory may lie about the size."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped,
        zipped.open("a.npy", "w", force_zip64=True) as out,
    ):
        out.write(member(header(descr="'|u1'", shape=f"({300 * 2**20},)")))
        for _ in range(300):
            out.write(bytes(2**20))
    data = bytearray(stream.getvalue())
    if declared is not None:
        entry = data.rindex(b"PK\x01\x02")
        data[entry + 24 : entry + 28] = declared.to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("declared", [None, 1000])
def test_zip_bombs_are_refused_without_unpacking_them(declared):
    data = bomb(declared)
    assert len(data) < 2 * 2**20
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(BundleError):
        read_npz(data)
    assert time.perf_counter() - began < 2.0
    assert tracemalloc.get_traced_memory()[1] < 2 * MAX_BYTES
    tracemalloc.stop()


def test_many_small_members_are_refused_at_once():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        for index in range(5000):
            zipped.writestr(f"{index}.npy", b"")
    with pytest.raises(BundleError, match="more than 4096 arrays"):
        read_npz(stream.getvalue())


def test_members_together_are_bounded():
    large = np.zeros(MAX_BYTES // 2, np.uint8)
    with pytest.raises(BundleError, match="arrays of more than"):
        read_npz(saved(a=large, b=large, c=large))


@pytest.mark.parametrize("name", ["../a", "/a", "a/b", "a b", "", "a" * 65, "ä"])
def test_odd_names_are_refused(name):
    with pytest.raises(BundleError, match="an array named"):
        read_npz(archive(**{name: member(header(), bytes(4))}))


def test_the_same_name_twice_is_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        zipped.writestr("a.npy", member(header(), bytes(4)))
        with pytest.warns(UserWarning, match="Duplicate"):
            zipped.writestr("a.npy", member(header(), bytes(4)))
    with pytest.raises(BundleError, match="twice"):
        read_npz(stream.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(method):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as zipped:
        zipped.writestr("a.npy", member(header(), bytes(4)))
    with pytest.raises(BundleError, match="compressed by method"):
        read_npz(stream.getvalue())


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damage_is_refused_or_read(data):
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(GOOD) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays = read_npz(bytes(damaged))
    except BundleError:
        return
    assert all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f")
