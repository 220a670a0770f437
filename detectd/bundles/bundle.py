"""Bundles on disk: a folder `NAME.detectd` of trained files, each listed with size and digest.

Reads every file once, checks what it read and hands out only that; never unpickles anything. What the files compute
is none of its business (`detectd.bundles.scoring`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectd.bundles import folders
from detectd.bundles.arrays import read_npz
from detectd.bundles.json_table import read_json
from detectd.bundles.manifest import CONTENT_NAMES, FileEntry, Manifest, View, manifest_bytes, parse_manifest
from detectd.errors import BundleError
from detectd.onnx_guard.graph import GraphSummary, check_graph

MANIFEST = "manifest.json"
DIGEST = "manifest.sha256"
SIGNATURE = "manifest.sig"

MAX_MANIFEST_BYTES = 2**20
MAX_BUNDLE_BYTES = 128 * 2**20
"""Of all listed files together: what can be read and hashed well within the 2 s a refusal may take."""

_READ_BYTES = 2**20
_REQUIRED = {
    "binary": ("golden.npz",),
    "one-class": ("golden.npz", "head.npz"),
    "few-shot": ("golden.npz", "references.npz"),
}

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """The checked content of one bundle.

    Attributes
    ----------
    path : Path
    manifest : Manifest
    table : dict
        manifest.json as it was read, unknown keys included.
    digest : str
        SHA-256 of manifest.json, 64 lower-case hex digits. It covers every listed file.
    graphs : dict of str to bytes
        ONNX models by file name.
    summaries : dict of str to GraphSummary
        What each graph holds and costs, by file name.
    arrays : dict of str to dict of str to ndarray
        ``golden.npz`` and, where listed, ``head.npz`` and ``references.npz``; read-only.
    """

    path: Path
    manifest: Manifest
    table: dict[str, Any]
    digest: str
    graphs: dict[str, bytes]
    summaries: dict[str, GraphSummary]
    arrays: dict[str, Arrays]

    @property
    def ident(self) -> str:
        """``name@`` and the first 12 digits of the digest, as events carry it."""
        return f"{self.manifest.name}@{self.digest[:12]}"


def load_bundle(path: str | Path) -> Bundle:
    """Read and check a bundle, all but its golden clips (`detectd.bundles.scoring.open_detector_bundle`).

    Raises
    ------
    BundleError
        Naming the bundle, the file, what it holds and what is expected.
    """
    path = Path(path)
    try:
        with _opened(path) as folder:
            return _load(path, folder)
    except BundleError as error:
        raise of_bundle(path, error) from None


def of_bundle(path: str | Path, error: Exception) -> BundleError:
    """Name the bundle in an error, and keep it one line whatever the bundle's files made it quote."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(error)[:500])
    return BundleError(f"bundle '{path}': {text}")


def save_bundle(path: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle, or replace one, once it has passed every check of `load_bundle`.

    Parameters
    ----------
    path : path ending in ``.detectd``
    manifest : Manifest
        Its `files` are filled in here.
    files : mapping of file name to bytes

    Raises
    ------
    BundleError
        If the result would be refused, or `path` holds something that is no bundle. The old bundle then stays.
    """
    path = Path(path)
    entries = {name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    try:
        _check_target(path)
        listing = manifest_bytes(manifest.with_files(entries))
        digest = f"{hashlib.sha256(listing).hexdigest()}\n".encode("ascii")
        with folders.replacing(path) as written:
            for name, data in {**files, MANIFEST: listing, DIGEST: digest}.items():
                folders.write_file(written / name, data)
            with _opened(written) as folder:
                bundle = _load(path, folder)
    except OSError as error:
        raise BundleError(f"bundle '{path}': cannot be written ({error.strerror or error})") from error
    except BundleError as error:
        raise of_bundle(path, error) from None
    return bundle


def _check_target(path: Path) -> None:
    if path.suffix != ".detectd":
        raise BundleError("expected a name that ends in .detectd")
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError("is there and is no bundle; choose another name")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Hold the folder open: what is read comes from one folder even if another is put in its place meanwhile."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BundleError("not found; expected a folder NAME.detectd, made by `detectd-train fit`") from None
    except NotADirectoryError:
        raise BundleError("not a folder; expected a folder NAME.detectd, made by `detectd-train fit`") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot be opened ({error})") from None
    try:
        yield folder
    finally:
        os.close(folder)


def _load(path: Path, folder: int) -> Bundle:
    present = _file_names(folder)
    listing = _read(folder, MANIFEST, MAX_MANIFEST_BYTES)
    digest = hashlib.sha256(listing).hexdigest()
    if _read(folder, DIGEST, 65) != f"{digest}\n".encode("ascii"):
        raise BundleError(
            f"{DIGEST} does not fit {MANIFEST}, expected {digest}; restore the bundle from where it was made"
        )
    try:
        manifest = parse_manifest(listing)
    except BundleError as error:
        raise BundleError(f"{MANIFEST}: {error}") from None
    _check_listing(present, manifest)
    content = _read_listed(folder, manifest)
    graphs = {name: data for name, data in content.items() if name.endswith(".onnx")}
    summaries = {view.graph: _check_view(view, graphs[view.graph]) for view in manifest.views}
    arrays = {name: _arrays(name, data) for name, data in content.items() if name.endswith(".npz")}
    return Bundle(path, manifest, read_json(listing), digest, graphs, summaries, arrays)


def _file_names(folder: int) -> set[str]:
    known = {MANIFEST, DIGEST, SIGNATURE, *CONTENT_NAMES}
    names = set()
    with os.scandir(folder) as entries:
        for entry in entries:  # stops at the first stranger, so a folder of a million files costs nothing
            if entry.name not in known:
                raise BundleError(f"holds {entry.name[:80]!r}, which is no file of a bundle; remove it")
            if not entry.is_file(follow_symlinks=False):
                raise BundleError(f"{entry.name} is not a regular file")
            names.add(entry.name)
    for name in (MANIFEST, DIGEST):
        if name not in names:
            raise BundleError(f"{name} is missing; expected a folder made by `detectd-train fit`")
    return names


def _check_listing(present: set[str], manifest: Manifest) -> None:
    listed = manifest.files.keys()
    unlisted = sorted(present - listed - {MANIFEST, DIGEST, SIGNATURE})
    if unlisted:
        raise BundleError(f"{unlisted[0]} is not listed in {MANIFEST}; remove it")
    missing = sorted(listed - present)
    if missing:
        raise BundleError(f"{missing[0]} is listed in {MANIFEST} and missing")
    wanted = {view.graph for view in manifest.views} | set(_REQUIRED[manifest.kind])
    absent = sorted(wanted - listed)
    if absent:
        raise BundleError(f"{MANIFEST} lists no {absent[0]}, which kind {manifest.kind!r} with these views needs")
    unused = sorted(name for name in listed - wanted if name.endswith(".onnx"))
    if unused:
        raise BundleError(f"{MANIFEST} lists {unused[0]}, which none of its views names")


def _read_listed(folder: int, manifest: Manifest) -> dict[str, bytes]:
    """Read all listed files against size and digest; of a pickle, nothing but that is ever used."""
    total = sum(entry.size for entry in manifest.files.values())
    if total > MAX_BUNDLE_BYTES:
        raise BundleError(f"files of {total} bytes together, at most {MAX_BUNDLE_BYTES} are accepted")
    content = {}
    for name, entry in sorted(manifest.files.items()):
        data = _read(folder, name, entry.size)
        if len(data) != entry.size:
            raise BundleError(f"{name} has {len(data)} bytes, expected {entry.size} as in {MANIFEST}")
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(f"{name} has been changed: its SHA-256 is not that of {MANIFEST}; restore the bundle")
        if not name.endswith(".pkl"):
            content[name] = data
    return content


def _read(folder: int, name: str, most: int) -> bytes:
    """Read a regular file of the folder of at most `most` bytes."""
    # NOFOLLOW: no way out of the folder. NONBLOCK: a FIFO put there since the listing must not hang the daemon.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"{name} is not a regular file")
            if status.st_size > most:
                raise BundleError(f"{name} has {status.st_size} bytes, at most {most} are expected")
            return stream.read(most + 1)[:most]
    except OSError as error:
        raise BundleError(f"{name} cannot be read ({error.strerror})") from None


def _check_view(view: View, graph: bytes) -> GraphSummary:
    try:
        summary = check_graph(graph)
        summary.expect({view.input_name: view.spec.shape}, {view.output_name: view.output_shape})
    except BundleError as error:
        raise BundleError(f"{view.graph}: {error}") from None
    return summary


def _arrays(name: str, data: bytes) -> Arrays:
    try:
        return read_npz(data)
    except BundleError as error:
        raise BundleError(f"{name}: {error}") from None
