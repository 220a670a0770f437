"""Puts a journal that cannot serve aside, under a name that tells why, and keeps few of them."""

import os
from datetime import UTC, datetime
from pathlib import Path

_KEPT_DAMAGED = 3
_PARTS = ("", "-wal", "-shm")


def put_aside(path: Path, label: str, now_ns: int) -> Path:
    """Rename a journal with its log; returns its new path. The oldest damaged ones go, those of newer versions stay.

    Raises
    ------
    OSError
        If the disk does not let us.
    """
    stamp = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).strftime("%Y%m%dT%H%M%SZ")
    target = _free(path.with_name(f"{path.name}.{label}-{stamp}"))
    for part in reversed(_PARTS):  # the file itself last: as long as it is there, this is not done
        source = path.with_name(path.name + part)
        if source.exists():
            source.rename(target.with_name(target.name + part))
    _sync(path.parent)
    damaged = [found for found in path.parent.glob(f"{path.name}.damaged-*") if not found.name.endswith(_PARTS[1:])]
    for old in sorted(damaged)[:-_KEPT_DAMAGED]:
        for part in _PARTS:
            old.with_name(old.name + part).unlink(missing_ok=True)
    return target


def _free(path: Path) -> Path:
    """`path`, or with a number behind if that is taken."""
    candidates = (path.with_name(path.name + (f"-{n}" if n else "")) for n in range(1_000_000))
    return next(candidate for candidate in candidates if not candidate.exists())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
