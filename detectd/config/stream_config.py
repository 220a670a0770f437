"""The `[[stream]]` tables: one dataclass per kind of source, and which table a stream id falls to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from detectd.config.toml_table import DURATION_S, POSITIVE, POSITIVE_DURATION_S, Range, Table, shown

if TYPE_CHECKING:
    from pathlib import Path

MAX_STREAM_ID_BYTES = 32  # the wire's field
MAX_PATTERN_BYTES = 64
GLOB = r"[A-Za-z0-9._/*?!\[\]-]+"
RATE_HZ = Range(8_000, 192_000)
SPEED = Range(0.001, 10_000)


@dataclass(frozen=True, slots=True)
class ZmqStream:
    """Every sender whose stream id matches the glob `id`."""

    source: ClassVar = "zmq"
    keys: ClassVar = ()
    id: str
    mask_hz: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceStream:
    source: ClassVar = "device"
    keys: ClassVar = ("device", "rate_hz", "channels", "mix")
    id: str
    mask_hz: tuple[float, ...] = ()
    device: str = "default"
    rate_hz: int = 44_100
    channels: int = 1
    mix: bool = False
    """Channels averaged to one stream."""


@dataclass(frozen=True, slots=True)
class FileStream:
    source: ClassVar = "file"
    keys: ClassVar = ("path", "loop", "speed")
    id: str
    path: Path
    mask_hz: tuple[float, ...] = ()
    loop: bool = False
    speed: float = 1.0
    """Times real time; 0 = as fast as it is accepted."""


@dataclass(frozen=True, slots=True)
class SyntheticStream:
    """Tones that come and go in white noise; without tones, noise alone."""

    source: ClassVar = "synthetic"
    keys: ClassVar = ("tones_hz", "snr_db", "on_s", "off_s", "rate_hz", "seed")
    id: str
    mask_hz: tuple[float, ...] = ()
    tones_hz: tuple[float, ...] = ()
    snr_db: float = -10.0
    """Total tone power over the noise power within 0-1000 Hz."""
    on_s: float = 6.0
    off_s: float = 10.0
    rate_hz: int = 44_100
    seed: int = 0


StreamConfig: TypeAlias = ZmqStream | DeviceStream | FileStream | SyntheticStream
SOURCES: dict[str, type[StreamConfig]] = {
    kind.source: kind for kind in (ZmqStream, DeviceStream, FileStream, SyntheticStream)
}


def read_stream(table: Table, folder: Path) -> StreamConfig:
    """Read one `[[stream]]` table; its paths are relative to `folder`.

    Raises
    ------
    ConfigError
        One line that names the stream and the key.
    """
    table.require("id", "source")
    source = table.choice("source", "", SOURCES)
    _check_keys(table, SOURCES[source])
    _check_id(table, source)
    match source:
        case "zmq":
            return ZmqStream(id=table.text("id", ""), mask_hz=_mask(table))
        case "device":
            return _device(table)
        case "file":
            return _file(table, folder)
        case _:
            return _synthetic(table)


def _check_keys(table: Table, kind: type[StreamConfig]) -> None:
    for key in table.values:
        owners = [other.source for other in SOURCES.values() if key in other.keys]
        if owners and key not in kind.keys:
            table.fail(
                f"key {shown(key)} belongs to source = {' or '.join(map(shown, owners))}; "
                f"this stream has source = {shown(kind.source)}"
            )
    table.check_keys(("id", "source", "mask_hz", *kind.keys))


def _check_id(table: Table, source: str) -> None:
    stream_id = table.text("id", "")
    if source == "zmq":
        if len(stream_id) > MAX_PATTERN_BYTES or not re.fullmatch(GLOB, stream_id):
            table.refuse("id", f"at most {MAX_PATTERN_BYTES} of A-Z a-z 0-9 . _ / - and the glob characters * ? [ ]")
    elif len(stream_id) > MAX_STREAM_ID_BYTES or not re.fullmatch(r"[A-Za-z0-9._/-]+", stream_id):
        table.refuse("id", f'at most {MAX_STREAM_ID_BYTES} of A-Z a-z 0-9 . _ / - (globs are for source = "zmq")')


def _mask(table: Table) -> tuple[float, ...]:
    return table.numbers("mask_hz", POSITIVE)


def _device(table: Table) -> DeviceStream:
    return DeviceStream(
        id=table.text("id", ""),
        mask_hz=_mask(table),
        device=table.text("device", "default"),
        rate_hz=table.integer("rate_hz", 44_100, RATE_HZ),
        channels=table.integer("channels", 1, Range(1, 64)),
        mix=table.flag("mix", default=False),
    )


def _file(table: Table, folder: Path) -> FileStream:
    table.require("path")
    loop = table.flag("loop", default=False)
    speed = table.number("speed", 1.0)
    if speed and speed not in SPEED:
        table.refuse("speed", f"0 (as fast as it is accepted) or a number {SPEED}")
    if loop and speed == 0:
        table.refuse("speed", "a number above 0 while loop = true, or the file would be sent without a pause for ever")
    return FileStream(
        id=table.text("id", ""),
        mask_hz=_mask(table),
        path=folder / table.text("path", ""),
        loop=loop,
        speed=speed,
    )


def _synthetic(table: Table) -> SyntheticStream:
    rate_hz = table.integer("rate_hz", 44_100, RATE_HZ)
    tones_hz = table.numbers("tones_hz", POSITIVE)
    if any(hz >= rate_hz / 2 for hz in tones_hz):
        table.refuse("tones_hz", f"a list of numbers, each above 0 and below half of rate_hz, {rate_hz / 2:g}")
    return SyntheticStream(
        id=table.text("id", ""),
        mask_hz=_mask(table),
        tones_hz=tones_hz,
        snr_db=table.number("snr_db", -10.0, Range(-100, 100)),
        on_s=table.number("on_s", 6.0, POSITIVE_DURATION_S),
        off_s=table.number("off_s", 10.0, DURATION_S),
        rate_hz=rate_hz,
        seed=table.integer("seed", 0, Range(0, 2**63 - 1)),
    )
