"""Record a device by hand, on the box that has it: `detectd capture`."""

import threading
from dataclasses import replace
from pathlib import Path

from detectd.capture.library import what_is_missing
from detectd.capture.status import Task
from detectd.capture.supervisor import DeviceSupervisor
from detectd.config.endpoint import remote_endpoint
from detectd.config.stream_config import RATE_HZ
from detectd.errors import ConfigError
from detectd.streams.wire import is_stream_id


def checked(task: Task) -> Task:
    """The task, if it makes sense.

    Raises
    ------
    ConfigError
        Naming the option: the options are this command's configuration, and asking again would not mend them.
    """
    if not is_stream_id(task.stream_id):
        raise ConfigError(f"--stream {task.stream_id!r}: expected 1 to 32 of A-Z a-z 0-9 . _ / -")
    if task.rate_hz is not None and task.rate_hz not in RATE_HZ:
        raise ConfigError(f"--rate {task.rate_hz}: expected a number {RATE_HZ}")
    try:
        endpoint = remote_endpoint(task.endpoint, Path())
    except ValueError as error:
        raise ConfigError(f"--to {task.endpoint}: expected {error}") from error
    if not task.device.strip():
        raise ConfigError("--device is empty; expected a name that detectd devices shows, or default")
    if missing := what_is_missing():
        raise ConfigError(missing)
    return replace(task, endpoint=endpoint)


def capture(task: Task, stop: threading.Event) -> None:
    """Record until told to stop."""
    supervisor = DeviceSupervisor(task)
    supervisor.start()
    stop.wait()
    supervisor.stop()
