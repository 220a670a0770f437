"""Which stretches of which files belong to one class. Reads folders and CSV lists, no audio.

A PATH is a folder (searched to the bottom), an audio file, or a CSV with the columns path, start_s, end_s, label, of
which only path is needed; paths in it are relative to the CSV. A column `session` names the recording that a row comes
from; without one every file is its own recording.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectd.errors import SourceError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one file: `start_s` to `end_s` (None: to its end), and the recording it must not be split from."""

    path: Path
    session: str
    start_s: float = 0.0
    end_s: float | None = None
    label: str = ""

    def __str__(self) -> str:
        if self.end_s is None and self.start_s == 0:
            return str(self.path)
        return f"{self.path} ({self.start_s:g}-{'end' if self.end_s is None else f'{self.end_s:g}'} s)"

    def overlaps(self, other: "Segment") -> bool:
        """Whether the two share audio."""
        mine = math.inf if self.end_s is None else self.end_s
        others = math.inf if other.end_s is None else other.end_s
        return self.path.resolve() == other.path.resolve() and self.start_s < others and other.start_s < mine


def find_segments(paths: Sequence[str | Path]) -> list[Segment]:
    """List what the PATHs of one class hold, in a fixed order.

    Raises
    ------
    SourceError
        If a PATH is missing, holds no audio files, or is a CSV that cannot be used.
    """
    return [segment for path in paths for segment in _segments_of(Path(path))]


def _segments_of(path: Path) -> list[Segment]:
    if path.is_dir():
        found = [_whole(file) for file in sorted(path.rglob("*")) if _is_audio(file) and file.is_file()]
        if not found:
            raise SourceError(f"{path}: holds no audio files; expected WAV, FLAC or OGG, in any subfolder")
        return found
    if not path.exists():
        raise SourceError(f"{path}: not found; expected a folder of audio files, an audio file or a CSV")
    if path.suffix.lower() == ".csv":
        return list(_rows(path))
    if _is_audio(path):
        return [_whole(path)]
    raise SourceError(f"{path}: expected a folder, a CSV or a file ending in {', '.join(AUDIO_SUFFIXES)}")


def _is_audio(path: Path) -> bool:
    # "._x.wav" and the like are a file manager's notes beside the recording.
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def _whole(path: Path) -> Segment:
    return Segment(path, str(path.resolve()))


def _rows(path: Path) -> Iterator[Segment]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if "path" not in (reader.fieldnames or []):
                raise SourceError(f"{path}: has no column 'path'; expected path, start_s, end_s, label")
            segments = [_row(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: cannot be read as CSV ({error})") from error
    if not segments:
        raise SourceError(f"{path}: lists no clips")
    yield from segments


def _row(csv_path: Path, line: int, row: dict[str, str | None]) -> Segment:
    file = csv_path.parent / (row["path"] or "")
    if not row["path"] or not _is_audio(file):
        raise SourceError(f"{csv_path} line {line}: path {row['path']!r} is no WAV, FLAC or OGG file")
    start_s = _seconds(csv_path, line, row, "start_s") or 0.0
    end_s = _seconds(csv_path, line, row, "end_s")
    if start_s < 0 or (end_s is not None and end_s <= start_s):
        raise SourceError(f"{csv_path} line {line}: start_s {start_s:g} to end_s {end_s:g} is no stretch of time")
    return Segment(file, row.get("session") or str(file.resolve()), start_s, end_s, row.get("label") or "")


def _seconds(csv_path: Path, line: int, row: dict[str, str | None], column: str) -> float | None:
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SourceError(f"{csv_path} line {line}: {column} is {text!r}, expected seconds")
    return value
