"""Arrays in and out of npz bytes, where the bytes come from somebody else.

numpy's own reader evaluates the header as Python literals and allocates what the header asks for; this one accepts
only the header that numpy writes, and allocates nothing that the bytes do not hold.
"""

import io
import math
import re
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from detectd.errors import BundleError

MAX_MEMBERS = 4096
MAX_BYTES = 128 * 2**20
"""Of all arrays of one file together, decompressed."""
MAX_TEXTS = 65_536
"""In one array: each becomes a Python object."""

_MEMBER = re.compile(r"([A-Za-z0-9_]{1,64})\.npy")
_HEADER = re.compile(
    rb"\{'descr': '[<|]([fiuU])(\d{1,3})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,10},? ?)*)\), \} *\n"
)
_LAST_CODE_POINT = 0x10FFFF
_ENTRY = b"PK\x01\x02"
_SIZES = {b"f": (4, 8), b"i": (1, 2, 4, 8), b"u": (1, 2, 4, 8), b"U": range(1, 257)}
"""Bytes a number, characters a text."""


def npz_bytes(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Bytes of an npz file; the same arrays always give the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name], order="C"), version=(1, 0), allow_pickle=False)
            # A fixed date: zip stores one, and it would make every file differ.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def read_npz(data: bytes) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of an npz file; each is read-only.

    Raises
    ------
    BundleError
        If it is no npz file of finite numbers and text, or holds more than `MAX_MEMBERS` arrays or `MAX_BYTES`.
    """
    # Before zipfile builds an object for each entry of the directory; by chance the mark is rarer than 1 in 64 MB.
    if data.count(_ENTRY) > MAX_MEMBERS:
        raise BundleError(f"more than {MAX_MEMBERS} arrays")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            names = [_array_name(member) for member in members]
            if len(set(names)) != len(names):
                raise BundleError("an array stands twice")
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise BundleError(f"arrays of more than {MAX_BYTES} bytes")
            return {name: _member_array(archive, member) for name, member in zip(names, members, strict=True)}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"no valid npz file ({error})") from None


def _array_name(member: zipfile.ZipInfo) -> str:
    matched = _MEMBER.fullmatch(member.filename)
    if not matched:
        raise BundleError(f"an array named {member.filename[:80]!r}")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(
            f"array {matched[1]}: compressed by method {member.compress_type}, expected stored or deflated"
        )
    return matched[1]


def _member_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[np.generic]:
    with archive.open(member) as stream:
        # The size that the directory declares is bounded; a plain read() would inflate what is really there first.
        content = stream.read(member.file_size)
    try:
        return _array(content)
    except BundleError as error:
        raise BundleError(f"array {member.filename[:-4]}: {error}") from None


def _array(content: bytes) -> NDArray[np.generic]:
    header_end = 10 + int.from_bytes(content[8:10], "little")
    matched = _HEADER.fullmatch(content[10:header_end])
    if content[:8] != b"\x93NUMPY\x01\x00" or not matched:
        raise BundleError("not a plain array of floats, integers or text")
    kind, size, order, sizes = matched.groups()
    shape = tuple(int(text) for text in sizes.split(b",") if text.strip())
    if int(size) not in _SIZES[kind] or len(shape) > 8:
        raise BundleError(f"elements of type {(kind + size).decode()}, rank {len(shape)}")
    dtype = np.dtype(f"<{(kind + size).decode()}")
    if math.prod(shape) * dtype.itemsize != len(content) - header_end:
        raise BundleError(f"shape {shape} does not fit its {len(content) - header_end} bytes")
    array = np.frombuffer(content, dtype, offset=header_end).reshape(shape, order="F" if order == b"True" else "C")
    _check_values(array)
    return array


def _check_values(array: NDArray[np.generic]) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BundleError("holds values that are not finite")
    if array.dtype.kind == "U":
        if array.size > MAX_TEXTS:
            raise BundleError(f"holds {array.size} texts, at most {MAX_TEXTS} are accepted")
        codes = np.ascontiguousarray(array).reshape(-1).view("<u4")
        if codes.max(initial=0) > _LAST_CODE_POINT or not all(text.isprintable() for text in array.ravel().tolist()):
            raise BundleError("holds text that is not printable")
