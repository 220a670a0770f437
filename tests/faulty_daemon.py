"""The daemon with one of its threads made to hang while a file says so; all else is the real thing.

In place of the daemon: `python faulty_daemon.py PYTHON -m detectd run ...`. The file that $DETECTD_TEST_FAULT names
holds the fault's name.
"""

import os
import sys
import time
from pathlib import Path

from detectd.cli import main
from detectd.engine.engine import Engine, Report
from detectd.publish.publisher import Publisher
from detectd.streams.intake import Intake


def holds(name):
    fault = Path(os.environ["DETECTD_TEST_FAULT"])
    return fault.exists() and fault.read_text() == name


def hanging(method, name):
    """A method that does not return while the fault lasts."""

    def hang(self, *arguments, **options):
        while holds(name):
            time.sleep(0.02)
        return method(self, *arguments, **options)

    return hang


def idle(step):
    """A step that returns and has done nothing."""

    def pass_by(self, now):
        return Report() if holds("audio") else step(self, now)

    return pass_by


if __name__ == "__main__":
    Engine.step = hanging(idle(Engine.step), "engine")
    Intake.take = hanging(Intake.take, "ingest")
    Publisher._beat = hanging(Publisher._beat, "publisher")
    sys.argv = ["detectd", *sys.argv[4:]]
    main()
