"""config.toml as frozen dataclasses. Every mistake in it is one line that names the file and what is accepted.

Knows the file's form, not whether bundles load, files play or ports are free: their owners say so when they open them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from detectd.config.endpoint import join_address, local_endpoint, loopback, remote_endpoint, split_address
from detectd.config.stream_config import (
    GLOB,
    DeviceStream,
    FileStream,
    StreamConfig,
    SyntheticStream,
    ZmqStream,
    read_stream,
)
from detectd.config.toml_table import DURATION_S, POSITIVE, POSITIVE_DURATION_S, Range, Table, read_toml, shown
from detectd.globs import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "Config",
    "DetectorConfig",
    "DeviceStream",
    "FileStream",
    "StreamConfig",
    "SyntheticStream",
    "ZmqStream",
    "load_config",
    "matches",
]

TABLES = ("service", "ingest", "publish", "journal", "metrics", "security", "stream", "detector")
DETECTOR_KEYS = (
    "name",
    "bundle",
    "streams",
    "hop_s",
    "alarm_on",
    "false_alarms_per_day",
    "threshold",
    "min_duration_s",
    "hold_s",
)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    state_dir: Path
    workers: int


@dataclass(frozen=True, slots=True)
class IngestConfig:
    bind: tuple[str, ...]
    """PULL endpoints."""
    connect: tuple[str, ...]
    """SUB endpoints."""
    max_backlog_s: float


@dataclass(frozen=True, slots=True)
class PublishConfig:
    events: str
    replay: str


@dataclass(frozen=True, slots=True)
class JournalConfig:
    max_age_days: float
    max_size_mb: float
    """Of the file and its write-ahead log together; 1 MB = 1,000,000 bytes."""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    host: str
    port: int
    """0 takes any free one."""


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    trust: Literal["hashed"]


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    name: str
    bundle: Path
    streams: tuple[str, ...]
    """Globs over stream ids."""
    hop_s: float
    alarm_on: Literal["present", "absent"]
    false_alarms_per_day: float | None
    threshold: float | None
    min_duration_s: float
    hold_s: float


@dataclass(frozen=True, slots=True)
class Config:
    path: Path
    """As given: what messages name."""
    service: ServiceConfig
    ingest: IngestConfig
    publish: PublishConfig
    journal: JournalConfig
    metrics: MetricsConfig
    security: SecurityConfig
    streams: tuple[StreamConfig, ...]
    detectors: tuple[DetectorConfig, ...]

    def stream_for(self, stream_id: str) -> StreamConfig | None:
        """Return the table that a stream belongs to.

        The daemon's own sources have their ids to themselves; any other stream has the first zmq table, in the file's
        order, whose glob matches: a catch-all belongs at the end.
        """
        own_first = sorted(self.streams, key=lambda stream: isinstance(stream, ZmqStream))
        return next((stream for stream in own_first if matches(stream_id, stream.id)), None)


def load_config(path: str | Path) -> Config:
    """Read and check a configuration; relative paths in it are taken from its own folder.

    Raises
    ------
    ConfigError
        One line: the file as given, the key, the value given, what is accepted.
    """
    path = Path(path)
    root = Table(path, "", read_toml(path))
    root.check_keys(TABLES)
    folder = path.absolute().parent
    config = Config(
        path=path,
        service=_service(_table(root, "service"), folder),
        ingest=_ingest(_table(root, "ingest"), folder),
        publish=_publish(_table(root, "publish"), folder),
        journal=_journal(_table(root, "journal")),
        metrics=_metrics(_table(root, "metrics")),
        security=_security(_table(root, "security")),
        streams=tuple(read_stream(table, folder) for table in _tables(root, "stream", "id")),
        detectors=tuple(_detector(table, folder) for table in _tables(root, "detector", "name")),
    )
    _refuse_repeats(root, "stream id", [stream.id for stream in config.streams])
    _refuse_repeats(root, "detector name", [detector.name for detector in config.detectors])
    _refuse_shared_endpoints(root, config)
    return config


def _table(root: Table, name: str) -> Table:
    values = root.values.get(name, {})
    if not isinstance(values, dict):
        root.refuse(name, f"a table, [{name}]")
    return Table(root.file, name, values, separator=".")


def _tables(root: Table, name: str, label: str) -> Iterable[Table]:
    values = root.values.get(name, [])
    if not isinstance(values, list) or not all(isinstance(item, dict) for item in values):
        root.refuse(name, f"an array of tables, [[{name}]]")
    for number, item in enumerate(values, start=1):
        called = f"'{item[label]}'" if isinstance(item.get(label), str) else str(number)
        yield Table(root.file, f"{name} {called}", item)


def _service(table: Table, folder: Path) -> ServiceConfig:
    table.check_keys(("state_dir", "workers"))
    workers = table.integer("workers", 1)
    if workers != 1:
        table.refuse("workers", "1 (this version runs one engine)")
    return ServiceConfig(state_dir=folder / table.text("state_dir", "var"), workers=workers)


def _ingest(table: Table, folder: Path) -> IngestConfig:
    table.check_keys(("bind", "connect", "max_backlog_s"))
    return IngestConfig(
        bind=_endpoints(table, "bind", ("tcp://127.0.0.1:5555",), lambda text: local_endpoint(text, folder)),
        connect=_endpoints(table, "connect", (), lambda text: remote_endpoint(text, folder)),
        max_backlog_s=table.number("max_backlog_s", 10.0, Range(1, 3600)),
    )


def _publish(table: Table, folder: Path) -> PublishConfig:
    table.check_keys(("events", "replay"))
    return PublishConfig(
        events=_accept(table, "events", "tcp://127.0.0.1:5557", lambda text: local_endpoint(text, folder)),
        replay=_accept(table, "replay", "tcp://127.0.0.1:5558", lambda text: local_endpoint(text, folder)),
    )


def _journal(table: Table) -> JournalConfig:
    table.check_keys(("max_age_days", "max_size_mb"))
    return JournalConfig(
        max_age_days=table.number("max_age_days", 30.0, Range(0, 36_500, above=True)),
        max_size_mb=table.number("max_size_mb", 512.0, Range(8, 1_000_000)),
    )


def _metrics(table: Table) -> MetricsConfig:
    table.check_keys(("bind",))
    accepted = 'a loopback address such as "127.0.0.1:9108"'

    def parse(text: str) -> MetricsConfig:
        host, port = split_address(text, accepted)
        return MetricsConfig(loopback(host, accepted), port)

    return _accept(table, "bind", "127.0.0.1:9108", parse)


def _security(table: Table) -> SecurityConfig:
    table.check_keys(("trust", "keys"))
    trust = table.choice("trust", "hashed", ("hashed", "signed"))
    if trust == "signed":
        table.refuse("trust", '"hashed" (this version does not read signatures yet)')
    if table.texts("keys", ()):
        table.refuse("keys", "[] (this version does not read signatures yet)")
    return SecurityConfig(trust="hashed")


def _detector(table: Table, folder: Path) -> DetectorConfig:
    table.check_keys(DETECTOR_KEYS)
    table.require("name", "bundle", "streams")
    if "false_alarms_per_day" in table.values and "threshold" in table.values:
        table.fail("false_alarms_per_day and threshold exclude each other; accepted: one of them or neither")
    return DetectorConfig(
        name=_detector_name(table),
        bundle=folder / table.text("bundle", ""),
        streams=_globs(table, "streams"),
        hop_s=table.number("hop_s", 0.25, POSITIVE_DURATION_S),
        alarm_on=_alarm_on(table),
        false_alarms_per_day=table.optional_number("false_alarms_per_day", POSITIVE),
        threshold=table.optional_number("threshold"),
        min_duration_s=table.number("min_duration_s", 0.5, DURATION_S),
        hold_s=table.number("hold_s", 2.0, DURATION_S),
    )


def _alarm_on(table: Table) -> Literal["present", "absent"]:
    return "absent" if table.choice("alarm_on", "present", ("present", "absent")) == "absent" else "present"


def _detector_name(table: Table) -> str:
    name = table.text("name", "")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):  # it ends a topic, where a slash would read as the stream's
        table.refuse("name", "at most 64 of A-Z a-z 0-9 . _ -")
    return name


def _globs(table: Table, key: str) -> tuple[str, ...]:
    globs = table.texts(key, ())
    if not globs or not all(re.fullmatch(GLOB, glob) for glob in globs):
        table.refuse(key, 'a list of stream ids or globs such as ["*"] (A-Z a-z 0-9 . _ / - * ? [ ])')
    return globs


def _accept(table: Table, key: str, default: str, parse: Callable[[str], _T]) -> _T:
    try:
        return parse(table.text(key, default))
    except ValueError as error:
        table.refuse(key, str(error))


def _endpoints(table: Table, key: str, default: tuple[str, ...], parse: Callable[[str], str]) -> tuple[str, ...]:
    texts = table.texts(key, default)
    endpoints = []
    for text in texts:
        try:
            endpoints.append(parse(text))
        except ValueError as error:
            table.fail_at(key, f"holds {shown(text)}; accepted: {error}")
    return tuple(endpoints)


def _refuse_repeats(root: Table, what: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            root.fail(f"{what} '{name}' is given twice; accepted: each once")


def _refuse_shared_endpoints(root: Table, config: Config) -> None:
    used: dict[str, str] = {}
    metrics = f"tcp://{join_address(config.metrics.host, config.metrics.port)}"
    places = [
        *(("ingest.bind", endpoint) for endpoint in config.ingest.bind),
        *(("ingest.connect", endpoint) for endpoint in config.ingest.connect),
        ("publish.events", config.publish.events),
        ("publish.replay", config.publish.replay),
        ("metrics.bind", metrics),
    ]
    for key, endpoint in places:
        if endpoint.startswith("tcp://") and endpoint.endswith(":0"):
            continue
        if endpoint in used:
            root.fail(f"{key} and {used[endpoint]} are both {shown(endpoint)}; accepted: a different address for each")
        used[endpoint] = key
