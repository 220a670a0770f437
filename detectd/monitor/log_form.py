"""How a line of the log is written: for a terminal, for the journal of systemd, or as JSON for programs."""

import json
import logging
import os
import time
from collections.abc import Mapping
from typing import Protocol

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7
_COLOURS = ((logging.ERROR, "31"), (logging.WARNING, "33"), (logging.INFO, "32"))
_TRACEBACK = logging.Formatter()


class Form(Protocol):
    """Writes a record as whole lines."""

    def __call__(self, record: logging.LogRecord) -> str:
        """Return the text, without the end of its last line."""
        ...


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What was logged beside the message, by `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def text(record: logging.LogRecord) -> str:
    """Time of day, level and message: for people who watch."""
    return _terminal(record, f"{record.levelname:<7}")


def coloured(record: logging.LogRecord) -> str:
    """The same with the level in colour."""
    colour = next((code for level, code in _COLOURS if record.levelno >= level), "2")
    return _terminal(record, f"\x1b[{colour}m{record.levelname:<7}\x1b[0m")


def journal(record: logging.LogRecord) -> str:
    """The priority as sd-daemon(3) spells it, and no time: the journal keeps its own."""
    priority = next((value for level, value in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY)
    return "\n".join(f"<{priority}>{line}" for line in _lines(record))


def as_json(record: logging.LogRecord) -> str:
    """One object: time (RFC 3339, UTC, ms), level, message, then whatever fields the line has."""
    seconds, ms = divmod(round(record.created * 1000), 1000)
    line = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ms:03d}Z",
        "level": record.levelname.lower(),
        "message": record.getMessage(),
        **fields_of(record),
    }
    if record.exc_info:
        line["exception"] = _TRACEBACK.formatException(record.exc_info)
    return json.dumps(line, default=str)


def form_for(wanted: str, fd: int, environ: Mapping[str, str]) -> Form:
    """Choose a form: what was asked for, and where the lines go.

    Parameters
    ----------
    wanted : {"text", "json"}
    fd : int
        What the lines are written to.
    """
    if wanted == "json":
        return as_json
    if _is_journal(fd, environ.get("JOURNAL_STREAM", "")):
        return journal
    colours = os.isatty(fd) and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return coloured if colours else text


def _is_journal(fd: int, stream: str) -> bool:
    status = os.fstat(fd)
    return stream == f"{status.st_dev}:{status.st_ino}"


def _terminal(record: logging.LogRecord, level: str) -> str:
    first, *more = _lines(record)
    return "\n".join([f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level} {first}", *more])


def _lines(record: logging.LogRecord) -> list[str]:
    """The message in one line, and a line for each of the traceback's if it has one."""
    traceback = _TRACEBACK.formatException(record.exc_info).splitlines() if record.exc_info else []
    return [_printable(line) for line in (record.getMessage(), *traceback)]


def _printable(line: str) -> str:
    r"""Spell out what would move a terminal's cursor or begin another line: device names come from outside.

    >>> _printable("no device 'Mic\x1b[2J\n'")
    "no device 'Mic\\x1b[2J\\n'"
    """
    if line.isprintable():
        return line
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)
