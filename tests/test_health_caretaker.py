"""The caretaker at work: a real manager's socket, a real clock, and signs that the test sets."""

import itertools
import logging
import threading
import time

import pytest
from notify_socket import ManagerSocket

from detectd.monitor.caretaker import Caretaker
from detectd.monitor.health import Part, Signs, StreamSigns
from detectd.monitor.notify import Notifier

PERIOD_S = 0.6
UP = StreamSigns("yard", True, 8000, ours=True)
DOWN = UP._replace(up=False, rate_hz=0, why="waiting for device 'Mic'")


class Service:
    """Signs that change as the test says, and a caretaker turned four times a second and more."""

    def __init__(self, address):
        self.stuck = False
        self.streams = [UP]
        self.journal = None
        self.marks = []
        self._beat = 0
        self.caretaker = Caretaker(self._signs, Notifier(address, PERIOD_S), lambda *mark: self.marks.append(mark))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._turn)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _signs(self):
        self._beat += not self.stuck
        return Signs(parts=[Part("engine", True, self._beat)], streams=list(self.streams), journal=self.journal)

    def _turn(self):
        while not self._stop.wait(0.1):
            self.caretaker.turn()


@pytest.fixture
def manager(tmp_path):
    with ManagerSocket(tmp_path / "notify") as listening:
        yield listening


@pytest.fixture
def service(manager):
    with Service(manager.address) as running:
        yield running


def beats_after(manager, at_s):
    return [beat_s for beat_s in manager.times("WATCHDOG") if beat_s > at_s]


def test_beats_come_at_least_twice_a_period_and_stop_with_what_a_restart_would_mend(service, manager):
    manager.wait_for("WATCHDOG", n=8)
    times = manager.times("WATCHDOG")
    gaps_s = sorted(after - before for before, after in itertools.pairwise(times))
    assert gaps_s[len(gaps_s) // 2] <= PERIOD_S / 2
    assert gaps_s[0] >= PERIOD_S / 3 - 0.05, "and no more often than asked for"
    service.stuck = True
    assert manager.wait(lambda: "stands still" in manager.status, 4)
    stuck_s = time.monotonic()
    time.sleep(3 * PERIOD_S)
    assert beats_after(manager, stuck_s) == []
    assert service.caretaker.faults() == ["the engine thread stands still"]
    service.stuck = False
    assert manager.wait(lambda: beats_after(manager, stuck_s))
    assert service.caretaker.faults() == []
    assert service.marks == [("engine", True), ("engine", False)]


def test_what_a_restart_would_not_mend_is_told_and_the_watchdog_fed(service, manager, caplog):
    caplog.set_level(logging.INFO, "detectd")
    manager.wait_for("WATCHDOG")
    service.streams, service.journal = [DOWN], "no space left on device"
    assert manager.wait(lambda: "journal: no space" in manager.status, 4)
    told_s = time.monotonic()
    assert manager.status.startswith("0 of 1 streams up; down: yard (waiting for device 'Mic'); 0 events; journal: no")
    assert service.caretaker.faults() == ["stream yard: waiting for device 'Mic'", "journal: no space left on device"]
    assert manager.wait(lambda: len(beats_after(manager, told_s)) >= 3)
    service.streams, service.journal = [UP], None
    assert manager.wait(lambda: manager.status == "1 of 1 streams up; 0 events; journal ok", 4)
    assert set(service.marks) == {("stream", True), ("journal", True), ("stream", False), ("journal", False)}
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("stream yard: lost") == 1
    assert not [line for line in lines if "space" in line], "nor is this news to the journal"
    assert not [line for line in lines if "Mic" in line], "that is for the device's own supervisor to say"
    (lost,) = [record for record in caplog.records if record.getMessage() == "stream yard: lost"]
    assert lost.stream == "yard"


def test_the_line_is_sent_when_it_changes_and_not_every_turn(service, manager):
    assert manager.wait(lambda: manager.status == "1 of 1 streams up; 0 events; journal ok")
    time.sleep(1)
    assert len(manager.statuses()) == 1
    service.streams = [UP, UP._replace(id="far")]
    assert manager.wait(lambda: manager.status == "2 of 2 streams up; 0 events; journal ok", 2)


def test_who_asks_gets_the_truth_though_nobody_turns(manager):
    streams = [UP]
    caretaker = Caretaker(lambda: Signs(streams=list(streams)), Notifier(), lambda *_: None)
    assert caretaker.faults() == []
    streams[0] = DOWN
    time.sleep(0.25)
    assert caretaker.faults() == ["stream yard: waiting for device 'Mic'"]


def test_many_who_ask_cost_one_look():
    looks = []
    caretaker = Caretaker(lambda: looks.append(1) or Signs(), Notifier(), lambda *_: None)
    began_s = time.monotonic()
    for _ in range(1000):
        caretaker.faults()
    assert len(looks) <= 1 + (time.monotonic() - began_s) / 0.2
