"""The state directory as one daemon's own: a locked file in it, which also notes what the journal may be unable to.

The note says whether everything that the run published is in the journal. It is written over the same few bytes of a
file that is there already, which works on a full disk; so a run that is killed while its journal cannot be written
leaves word of what is missing.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from detectd.errors import ConfigError

NAME = "daemon.lock"
_NOTE_BYTES = 256


@dataclass(frozen=True, slots=True)
class Note:
    """What a run leaves in the file.

    Attributes
    ----------
    journal_whole : bool
        Whether the journal holds all that the run published.
    """

    pid: int
    run_id: str
    journal_whole: bool


class StateLock:
    """Holds a state directory for as long as the process lives.

    Attributes
    ----------
    earlier : Note or None
        What the run before left, once the lock is held.
    """

    def __init__(self, folder: Path) -> None:
        self.earlier: Note | None = None
        self._folder = folder
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether the directory is ours."""
        return self._fd is not None

    def take(self, run_id: str) -> None:
        """Make the directory if it is missing, and lock it; what the earlier run noted stays noted.

        Raises
        ------
        ConfigError
            If another daemon has it, or it cannot be a directory.
        OSError
            If the disk does not let us.
        """
        if self._folder.exists() and not self._folder.is_dir():
            raise ConfigError(f"service.state_dir: {self._folder} is not a directory; accepted: one to write in")
        self._folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _note_in(os.pread(fd, _NOTE_BYTES, 0))
            os.close(fd)
            who = f"process {holder.pid}" if holder else "another process"
            raise ConfigError(
                f"service.state_dir: {self._folder} is in use by {who}; stop that daemon or choose another directory"
            ) from None
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self.earlier = _note_in(os.pread(fd, _NOTE_BYTES, 0))
        of_run = self.earlier or Note(os.getpid(), run_id, journal_whole=True)
        self.note(of_run.run_id, journal_whole=of_run.journal_whole)

    def note(self, run_id: str, *, journal_whole: bool) -> None:
        """Write down how the journal is, as far as the disk lets us."""
        if self._fd is None:
            return
        try:
            _write(self._fd, Note(os.getpid(), run_id, journal_whole))
        except OSError:
            # Nothing is left to write on: whoever starts next and finds the disk like this assumes the worst.
            return

    def release(self) -> None:
        """Let another daemon have the directory."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _write(fd: int, note: Note) -> None:
    os.pwrite(fd, json.dumps(asdict(note)).encode().ljust(_NOTE_BYTES - 1) + b"\n", 0)
    os.fdatasync(fd)


def _note_in(data: bytes) -> Note | None:
    try:
        values = json.loads(data)
        return Note(int(values["pid"]), str(values["run_id"]), bool(values["journal_whole"]))
    except (ValueError, KeyError, TypeError):
        return None
