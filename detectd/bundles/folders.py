"""Write a folder so that a reader, or a power cut, finds either the old one or the new one."""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill; put it in its place if the block ends well, else remove it.

    Raises
    ------
    OSError
    """
    path = path.resolve()  # through a link to the folder, not the link itself
    # The suffix stays: what is checked in the temporary folder is what will stand at `path`.
    written = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent))
    try:
        yield written
        written.chmod(0o755)  # mkdtemp makes it 0700; the daemon runs as another user
        _sync(written)
        _put(written, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(written, ignore_errors=True)  # what is there now is the old folder, or what failed


def write_file(path: Path, data: bytes) -> None:
    """Write a new file through to the disk.

    Raises
    ------
    OSError
    """
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _put(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
    elif not _exchanged(new, target):
        # A file system that cannot exchange: for a moment there is nothing at `target`.
        aside = new.with_name(f"{new.name}.old")
        target.rename(aside)
        try:
            new.rename(target)
        except OSError:
            aside.rename(target)
            raise
        aside.rename(new)


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two folders in one step where the system can (Linux, most file systems)."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if swap(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
