"""The journal whatever the disk does: says of messages whether they are written, notes what is not, and tries again.

One thread writes. Any other may ask for `fault` and `lost`, and report a file that it found damaged.
"""

import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from detectd.config.config import JournalConfig
from detectd.errors import ConfigError
from detectd.monitor.log import LOG
from detectd.publish.aside import put_aside
from detectd.publish.journal_file import NEVER_NS, JournalFile, Limits, Lost, open_events
from detectd.publish.lock import StateLock
from detectd.publish.record import OpenEvent, Record, open_event
from detectd.publish.schema import NAME, UnusableError, is_damage, open_to_read

_RETRY_S = 1.0
_AGE_CHECK_S = 1.0
_ROOM_BYTES = 1_000_000
"""Free before writing is tried again: on a full disk small writes may still fit somewhere, now and then."""

_PRUNED_AT_ONCE = 256
_DAY_NS = 86_400_000_000_000
_NOTHING = Lost(NEVER_NS, {})


class Journal:
    """What was published, on disk.

    Parameters
    ----------
    folder : Path
        The state directory; made if missing.
    clock : callable
        UTC in nanoseconds.

    Raises
    ------
    ConfigError
        If another daemon has the directory, or it is something else. A disk in trouble raises nothing.
    """

    def __init__(
        self, folder: Path, run_id: str, settings: JournalConfig, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.path = folder / NAME
        self.run_id = run_id
        self._limits = Limits(round(settings.max_age_days * _DAY_NS), round(settings.max_size_mb * 1e6))
        self._clock = clock
        self._lock = StateLock(folder)
        self._file: JournalFile | None = None
        self._guard = threading.Lock()
        self._lost = _NOTHING
        self._fault: str | None = None
        self._fault_began_s = self._retry_s = self._age_check_s = 0.0
        self._reported: str | None = None
        self._open: dict[str, OpenEvent] = {}
        self._salvaged: list[OpenEvent] = []
        self._seqs: dict[tuple[str, str, str], int] = {}
        with contextlib.suppress(OSError):  # met again, and told, by the attempt to open
            self._lock.take(run_id)
        self._blind = not self._lock.held  # an earlier run may have been unable to leave a note as well
        self._forgot = False
        self._newest_ns = NEVER_NS
        self._have_file()

    @property
    def fault(self) -> str | None:
        """Why messages go out without being written; None while they are written."""
        return self._fault

    @property
    def lost(self) -> Lost:
        """What was published and is in no file. Who reads this before the file misses nothing."""
        with self._guard:
            return self._lost

    def report(self, error: sqlite3.Error) -> None:
        """Tell of an error met while reading; a damaged file is put aside by who writes."""
        if is_damage(error):
            self._reported = str(error)

    def append(self, records: Sequence[Record], now_ns: int) -> bool:
        """Write messages down; True once they are on disk. If not, and they are published, `lose` them."""
        written = self._with_file(lambda file: file.append(records, now_ns))
        if written:
            self._follow(records, now_ns)
        return written

    def lose(self, records: Sequence[Record], now_ns: int) -> None:
        """Note messages that will be published without being written."""
        if self._lost is _NOTHING:
            self._lock.note(self.run_id, journal_whole=False)
        seqs = dict(self._lost.seqs)
        for record in records:
            key = (record.topic, record.stream, record.detector)
            first_seq, _ = seqs.get(key, (record.seq, 0))
            seqs[key] = (first_seq, record.seq)
        self._set_lost(Lost(max(self._lost.until_ns, now_ns), seqs))
        self._follow(records, now_ns)

    def left_open(self) -> list[OpenEvent]:
        """Events that earlier runs left open and nobody has closed; none while the file cannot be had."""
        found: list[OpenEvent] = []
        self._with_file(lambda file: found.extend(file.left_open()))
        return found + self._salvaged

    def tend(self, n_written: int = 0) -> bool:
        """Try again what failed, prune, tidy: a little at a time; True if there is more to do at once.

        Parameters
        ----------
        n_written : int
            Messages since the last time; twice as many go if there are too many.
        """
        now_ns: int | None = None
        if time.monotonic() >= self._age_check_s:
            self._age_check_s = time.monotonic() + _AGE_CHECK_S
            now_ns = self._clock()
        more: list[bool] = []
        n_messages = max(_PRUNED_AT_ONCE, 2 * n_written)
        self._with_file(lambda file: more.append(file.prune(n_messages, now_ns)))
        self._with_file(lambda file: file.checkpoint_if_due())
        return any(more)

    def close(self) -> None:
        """Note the end of the run and let go of the directory."""
        self._retry_s = 0.0
        self._with_file(lambda file: file.end_run(self._clock()))
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.release()

    def _with_file(self, action: Callable[[JournalFile], None]) -> bool:
        """Do something with the file; once more with a new one, if this had to be put aside."""
        return any(self._have_file() and self._attempt(action) for _ in range(2))

    def _attempt(self, action: Callable[[JournalFile], None]) -> bool:
        assert self._file is not None
        try:
            action(self._file)
        except sqlite3.Error as error:
            if is_damage(error):
                self._put_aside("damaged", str(error))
            else:
                self._begin_fault(str(error))
            return False
        return True

    def _have_file(self) -> bool:
        """Whether the file is open and in its place, after trying to make it so."""
        if self._file is not None:
            if self._reported is not None:
                self._put_aside("damaged", self._reported)
            elif self._file.moved:
                self._forget_file("it is no longer in its place")
        if self._file is None and time.monotonic() >= self._retry_s:
            self._open_file()
        return self._file is not None

    def _open_file(self) -> None:
        for _ in range(2):
            try:
                self._file = self._opened()
            except UnusableError as error:
                if self._put_aside(error.label, str(error)):
                    continue
                return
            except (sqlite3.Error, OSError, ConfigError) as error:
                self._begin_fault(str(error))
            return
        self._begin_fault("a new file cannot be used either")

    def _opened(self) -> JournalFile:
        if not self._lock.held:
            self._lock.take(self.run_id)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._fault is not None and shutil.disk_usage(self.path.parent).free < _ROOM_BYTES:
            raise sqlite3.OperationalError("the disk is full")
        doubt = self._earlier_lack()
        file = JournalFile(self.path, self.run_id, self._limits)
        try:
            file.begin_run(self._clock(), doubt_earlier=doubt)
            file.recover(self._lost, list(self._open.values()))
            self._newest_ns = max(self._newest_ns, file.newest_ns)
        except BaseException:
            file.close()
            raise
        self._lock.note(self.run_id, journal_whole=True)
        self._end_fault()
        self._set_lost(_NOTHING)
        return file

    def _earlier_lack(self) -> bool:
        """Whether something that was published before may be in no file."""
        existed, earlier = self.path.exists(), self._lock.earlier
        if earlier is not None and not (existed and earlier.journal_whole):
            return True
        return self._forgot or (self._blind and existed)

    def _follow(self, records: Sequence[Record], now_ns: int) -> None:
        """Remember what a new file would have to know."""
        self._newest_ns = max(self._newest_ns, now_ns)
        for record in records:
            self._seqs[record.topic, record.stream, record.detector] = record.seq
            if record.state == "end":
                self._open.pop(record.event_id, None)
            else:
                self._open[record.event_id] = open_event(record)
        if self._salvaged:
            over = {record.event_id for record in records if record.state == "end"}
            self._salvaged = [left for left in self._salvaged if left.event_id not in over]

    def _put_aside(self, label: str, reason: str) -> bool:
        """Rename the file, so that the next attempt begins a new one; False if the disk does not let us."""
        self._lock.note(self.run_id, journal_whole=False)
        if label == "damaged":
            self._salvage()
        try:
            target = put_aside(self.path, label, self._clock())
        except OSError as error:
            self._begin_fault(f"{reason}; it cannot be put aside: {error}")
            return False
        self._forget_file(f"{reason}; kept as {target.name}")
        return True

    def _salvage(self) -> None:
        """Read from a damaged file which events of earlier runs wait for their end, if that part can be read."""
        with (
            contextlib.suppress(sqlite3.Error, ValueError),
            contextlib.closing(open_to_read(self.path)) as connection,
        ):
            connection.text_factory = str
            row = connection.execute("SELECT run FROM runs WHERE run_id = ?", (self.run_id,)).fetchone()
            self._salvaged = open_events(connection, row[0] if row else -1)

    def _forget_file(self, reason: str) -> None:
        """Begin a new file: what the old one held is lost to it."""
        LOG.error(
            "journal %s: %s; a new one is begun, replay says complete: false of what was in it", self.path, reason
        )
        self._close_file()
        self._reported = None
        self._retry_s = 0.0
        seqs = {key: (1, seq) for key, seq in self._seqs.items()}
        self._forgot = True
        self._set_lost(Lost(max(self._newest_ns, self._clock()), seqs))

    def _begin_fault(self, reason: str) -> None:
        self._close_file()
        self._retry_s = time.monotonic() + _RETRY_S
        if self._fault is None:
            self._fault_began_s = time.monotonic()
            LOG.error("journal %s: %s; events go out unjournaled until it can be written", self.path, reason)
        self._fault = f"journal {self.path}: {reason}"

    def _end_fault(self) -> None:
        if self._fault is not None:
            seconds = time.monotonic() - self._fault_began_s
            n_lost = sum(last - first + 1 for first, last in self._lost.seqs.values())
            LOG.warning("journal %s: written again after %.1f s; it lacks %d messages", self.path, seconds, n_lost)
        self._fault = None

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(sqlite3.Error):
                self._file.close()
            self._file = None

    def _set_lost(self, lost: Lost) -> None:
        with self._guard:
            self._lost = lost
