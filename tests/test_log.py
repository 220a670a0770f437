"""The log as it reaches a terminal, a file, the journal of systemd and a program: real descriptors, real processes."""

import json
import logging
import os
import pty
import re
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from daemon_process import ENVIRONMENT, on_free_ports, running

from detectd.monitor.limit import MOST
from detectd.monitor.log_form import as_json, coloured, form_for, journal, text

PROGRAM = """
import sys
from detectd.engine.event import Event
from detectd.engine.tracker import EndReason, State
from detectd.monitor.limit import Limiter
from detectd.monitor import log

event = Event(
    event_id="id", state=State.START, stream="yard", detector="pump", kind="binary", bundle="b", threshold=0.0,
    label="pump", start_sample=0, end_sample=None, sample_rate_hz=8000, start_utc_ns=0, end_utc_ns=None,
    heard_sample=0, heard_utc_ns=0, score=1.5, peak_score=1.5, lines=(), gap_samples=0, end_reason=None,
)
with log.to_stderr(sys.argv[1], Limiter(window_s=float(sys.argv[2]))):
"""
ONE_OF_EACH = """
    log.LOG.info("stream %s: up", "yard", extra={"stream": "yard"})
    log.LOG.warning("no device 'Mic\\x1b[2J\\nERROR forged'")
    log.log_event(event)
    try:
        1 / 0
    except ZeroDivisionError:
        log.LOG.critical("engine died, stopping", exc_info=True)
"""
STORM = """
    import time
    for number in range(1000):
        log.LOG.info("stream %s: lost", "yard", extra={"stream": "yard"})
    log.LOG.info("stream %s: lost", "far", extra={"stream": "far"})
    for number in range(100):
        log.log_event(event)
    time.sleep(float(sys.argv[3]))
    log.LOG.info("after the storm")
"""


def logged(program, *arguments, stderr=subprocess.PIPE, form="text", window_s=60, **variables):
    """What a program writes to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, form, str(window_s), *map(str, arguments)],
        env={**{name: value for name, value in ENVIRONMENT.items() if name != "NO_COLOR"}, **variables},
        stderr=stderr,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stderr.splitlines() if stderr == subprocess.PIPE else None


def on_a_terminal(program, **variables):
    ours, theirs = pty.openpty()
    try:
        logged(program, stderr=theirs, **variables)
        return os.read(ours, 65536).decode().splitlines()
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_line_says_when_how_grave_and_what():
    lines = logged(ONE_OF_EACH)
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    stream yard: up", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    EVENT yard / pump: pump began, score 1\.50", lines[2])
    assert re.fullmatch(r"\d\d:\d\d:\d\d CRITICAL engine died, stopping", lines[3])
    assert lines[4].startswith("Traceback")
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_nothing_in_a_message_moves_the_cursor_or_begins_a_line():
    assert r"no device 'Mic\x1b[2J\nERROR forged'" in logged(ONE_OF_EACH)[1]


def test_colour_is_for_terminals_whose_owner_has_not_refused_it():
    coloured_lines = on_a_terminal(ONE_OF_EACH, TERM="xterm")
    assert "\x1b[32mINFO   \x1b[0m stream yard: up" in coloured_lines[0]
    assert "\x1b[33mWARNING" in coloured_lines[1]
    assert "\x1b[31mCRITICAL" in coloured_lines[3]
    assert not any("\x1b" in line for line in on_a_terminal(ONE_OF_EACH, NO_COLOR="1"))
    assert not any("\x1b" in line for line in logged(ONE_OF_EACH))


def test_json_is_one_object_a_line_with_its_fields():
    before = datetime.now(UTC)
    up, odd, event, died = (json.loads(line) for line in logged(ONE_OF_EACH, form="json"))
    assert up.keys() == {"time", "level", "message", "stream"}
    assert (up["level"], up["message"], up["stream"]) == ("info", "stream yard: up", "yard")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", up["time"])
    told = datetime.fromisoformat(up["time"])
    assert 0 <= (told - before).total_seconds() + 0.001 < 60
    assert odd["message"] == "no device 'Mic\x1b[2J\nERROR forged'"
    expected = {"stream": "yard", "detector": "pump", "event_id": "id", "state": "start"}
    assert {name: event[name] for name in expected} == expected
    assert died["level"] == "critical"
    assert died["exception"].endswith("ZeroDivisionError: division by zero")


def test_under_the_journal_a_line_has_its_priority_and_no_time(tmp_path):
    path = tmp_path / "stream"
    with path.open("w") as file:
        status = os.fstat(file.fileno())
        logged(ONE_OF_EACH, stderr=file, JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}")
    lines = path.read_text().splitlines()
    assert lines[0] == "<6>stream yard: up"
    assert lines[1].startswith("<4>no device")
    assert lines[3] == "<2>engine died, stopping"
    assert all(line.startswith("<2>") for line in lines[3:]), "each line is an entry of its own"


def test_another_descriptors_journal_is_not_ours(tmp_path):
    with (tmp_path / "file").open("w") as file:
        assert form_for("text", file.fileno(), {"JOURNAL_STREAM": "1:2"}) is text
        assert form_for("json", file.fileno(), {"JOURNAL_STREAM": "1:2"}) is as_json


@pytest.mark.parametrize(("level", "priority"), [(50, 2), (40, 3), (30, 4), (20, 6), (10, 7)])
def test_levels_have_syslogs_priorities(level, priority):
    record = logging.makeLogRecord({"msg": "x", "levelno": level, "levelname": logging.getLevelName(level)})
    assert journal(record) == f"<{priority}>x"
    assert logging.getLevelName(level) in coloured(record)


def test_what_repeats_is_a_few_lines_and_a_sum_and_others_are_not_held_back():
    lines = [json.loads(line) for line in logged(STORM, 2.2, form="json", window_s=1)]
    lost = [line for line in lines if line["message"] == "stream yard: lost"]
    sums = {line["stream"]: line for line in lines if "repeated" in line}
    # The storm may have taken more than a window where the machine was slow.
    assert len(lost) + sums["yard"]["repeated"] >= MOST
    storm = [line for line in lines if line.get("stream") == "yard" and "event" not in line["message"].lower()]
    assert sum(line.get("repeated", 1) for line in storm) == 1000
    assert len(storm) < 100
    assert re.fullmatch(r"repeated \d+ more times in \d+ s: stream yard: lost", storm[-1]["message"])
    assert [line["message"] for line in lines if line.get("stream") == "far"] == ["stream far: lost"]
    # Event lines are many before they are summed up, and none is gone without a word.
    events = [line for line in lines if line.get("detector") == "pump"]
    assert sum(line.get("repeated", 1) for line in events) == 100
    assert lines[-1]["message"] == "after the storm"
    assert lines.index(storm[-1]) < len(lines) - 1, "told when the window was over, not at the end"


def test_what_was_held_back_is_told_at_the_latest_on_leaving():
    lines = logged(STORM, 0)
    assert re.search(r"repeated 995 more times in \d+ s: stream yard: lost", "\n".join(lines))


def test_lines_nobody_took_are_counted_and_said():
    program = """
    for number in range(30_000):
        log.LOG.info(f"line {number}")
    print("done", flush=True)
    sys.stdin.readline()
    log.LOG.info("the end")
"""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM + program, "json", "0"],  # in windows of no length nothing repeats
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "done\n"
            time.sleep(0.2)
            process.stdin.write("\n")
            process.stdin.flush()
            messages = [json.loads(line)["message"] for line in process.stderr]
        finally:
            process.kill()
    lost = [message for message in messages if "are lost" in message]
    written = sum(message.startswith("line ") for message in messages)
    assert written < 30_000
    missing = 30_000 - written + ("the end" not in messages)
    assert sum(int(message.split()[0]) for message in lost) == missing


def test_the_daemon_logs_json_on_request(tmp_path):
    text = on_free_ports().replace("off_s = 10", "off_s = 5").replace("on_s = 6", "on_s = 3")
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "journal.sqlite3").write_bytes(b"damaged" * 1000)
    with running(tmp_path, text, "--log", "json") as daemon:
        daemon.wait_for_line('"state": "end"', 30)
    lines = [json.loads(line) for line in daemon.stderr.splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    assert "file is not a database; kept as" in lines[0]["message"], "also what is met before it is ready"
    (up,) = [line for line in lines if line["message"].startswith("stream demo: up")]
    assert up["stream"] == "demo"
    events = [line for line in lines if "event_id" in line]
    start, end = events[:2]
    assert (start["state"], end["state"], start["stream"], start["detector"]) == ("start", "end", "demo", "demo")
    assert start["event_id"] == end["event_id"]
    assert lines[-1]["message"] == "stopped"
