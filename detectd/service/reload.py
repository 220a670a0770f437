"""A new configuration while the old one runs: validated whole before anything changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectd.config.config import Config, load_config
from detectd.engine.watch import Detector
from detectd.errors import ConfigError
from detectd.service.admission import own_streams
from detectd.service.plan import open_detectors
from detectd.service.sources import check_source

_AT_START = {
    "service": ("state_dir", "workers"),
    "ingest": ("bind", "connect"),
    "publish": ("events", "replay"),
    "metrics": ("host", "port"),
    "journal": ("max_age_days", "max_size_mb"),
}
"""What is opened once. A reload that would have to change it is refused whole."""

_NAMES = {"metrics.host": "metrics.bind", "metrics.port": "metrics.bind"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration that could run, with all it needs open."""

    config: Config
    detectors: list[Detector]
    own_streams: dict[str, str]
    summary: str


def prepare(config: Config, detectors: Sequence[Detector]) -> Prepared:
    """Read the file of a configuration again, and open what it names.

    Parameters
    ----------
    config, detectors
        Those at work.

    Raises
    ------
    ConfigError, BundleError
        If it could not run; what is at work is as it was.
    """
    new = load_config(config.path)
    _refuse_other_sockets(config, new)
    for stream in new.streams:
        check_source(new.path, stream)
    opened = open_detectors(new, detectors)
    return Prepared(new, opened, own_streams(new), _summary(config, new, detectors, opened))


def _refuse_other_sockets(old: Config, new: Config) -> None:
    for table, keys in _AT_START.items():
        before, after = getattr(old, table), getattr(new, table)
        for key in keys:
            if getattr(before, key) != getattr(after, key):
                name = _NAMES.get(f"{table}.{key}", f"{table}.{key}")
                raise ConfigError(
                    f"{new.path}: {name} has changed, and is read only at the start; "
                    "accepted: its former value, or a restart of the daemon"
                )


def _summary(old: Config, new: Config, before: Sequence[Detector], after: Sequence[Detector]) -> str:
    detectors = _changes({d.name: d for d in before}, {d.name: d for d in after})
    streams = _changes({s.id: s for s in old.streams}, {s.id: s for s in new.streams})
    parts = [f"{what} {text}" for what, text in (("detectors", detectors), ("streams", streams)) if text]
    if old.ingest.max_backlog_s != new.ingest.max_backlog_s:
        parts.append("ingest.max_backlog_s")
    return "; ".join(parts) or "nothing has changed"


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """
    >>> _changes({"a": 1, "b": 2}, {"b": 3, "c": 4})
    '+c -a ~b'
    """
    signs = [f"+{name}" for name in after if name not in before]
    signs += [f"-{name}" for name in before if name not in after]
    signs += [f"~{name}" for name in after if name in before and before[name] != after[name]]
    return " ".join(signs)
