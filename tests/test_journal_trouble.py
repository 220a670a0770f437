"""Disk trouble and damaged files: detection and publishing go on, and replay tells the truth about it."""

import contextlib
import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from daemon_process import ENVIRONMENT, until
from journal_parts import NAME, SETTINGS, bodies, journal_in, kill, messages, record, rows
from kill_rig import Rig

from detectd.publish.journal import Journal

RECOVERED_S = 5.0
EVERYTHING = {"since_time": "1970-01-01T00:00:00Z"}


@contextlib.contextmanager
def mounted(folder, size="4m", *options):
    """A file system of its own, small."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs to mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def full(folder):
    """No byte left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x")
    yield
    ballast.unlink()


@contextlib.contextmanager
def unwritable(process):
    """No file can grow beyond what every journal has already: the disk gives an I/O error."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
    yield
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def health(rig):
    url = re.search(r"metrics: (\S+)/metrics", rig.said)[1]
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
            return answer.status, json.load(answer)["reasons"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["reasons"]


def flags(rig, since=0):
    """`journaled` of all that came."""
    return [json.loads(body)["journaled"] for _, body in rig.collector.messages[since:]]


def wait_for_flag(rig, journaled, timeout_s=20):
    n_before = len(rig.collector.messages)
    began_s = time.monotonic()
    assert until(lambda: journaled in flags(rig, n_before), timeout_s), f"none came with journaled: {journaled}"
    return time.monotonic() - began_s


def check_trouble(rig, trouble, words):
    """Go through trouble and out of it."""
    wait_for_flag(rig, journaled=True)
    with trouble:
        wait_for_flag(rig, journaled=False)
        n_before = len(rig.collector.messages)
        assert until(lambda: len(rig.collector.messages) > n_before + 10)  # detection and publishing go on
        assert not any(flags(rig, n_before))
        assert until(lambda: health(rig)[0] == 503, 2)
        (reasons,) = health(rig)[1:]
        assert len(reasons) == 1
        assert words in reasons[0]
        assert str(rig.state) in reasons[0]
        assert rig.ask(EVERYTHING)[1]["complete"] is False
        ended_s = time.monotonic()
    wait_for_flag(rig, journaled=True)
    assert time.monotonic() - ended_s <= RECOVERED_S
    assert until(lambda: health(rig)[0] == 200, 5)
    assert rig.said.count("events go out unjournaled") == 1
    assert rig.said.count("written again") == 1


def check_replay(rig):
    """What was published without being journaled is missing, and nothing else; replay knows where."""
    got = [json.loads(body) for _, body in rig.collector.messages]
    replayed, done = rig.ask(EVERYTHING)
    assert done["complete"] is False
    assert {body for _, body in rig.collector.messages if json.loads(body)["journaled"]} <= set(replayed)
    assert not {body for _, body in rig.collector.messages if not json.loads(body)["journaled"]} & set(replayed)
    for stream in {message["stream"] for message in got}:
        lost = [one["seq"] for one in got if one["stream"] == stream and not one["journaled"]]
        request = {"run_id": got[-1]["run_id"], "topic": f"event/{stream}/demo"}
        if lost:
            assert rig.ask(request | {"since_seq": max(lost)})[1]["complete"] is False
        assert rig.ask(request | {"since_seq": max(lost, default=0) + 1})[1]["complete"] is True


def test_a_full_disk():
    with Rig(seed=11) as rig, mounted(rig.state):
        rig.start()
        rig.ready()
        check_trouble(rig, full(rig.state), "full")
        check_replay(rig)
        assert rig.stop() == 0
        assert rows(rig.state, "SELECT count(*) FROM open_events") == [(0,)]


def test_an_input_output_error():
    with Rig(seed=12) as rig:
        rig.start()
        rig.ready()
        check_trouble(rig, unwritable(rig.process), "disk I/O error")
        check_replay(rig)
        assert rig.stop() == 0


def test_a_run_killed_on_a_full_disk_leaves_word_of_what_is_missing():
    with Rig(seed=13) as rig, mounted(rig.state):
        rig.start()
        rig.ready()
        wait_for_flag(rig, journaled=True)
        with full(rig.state):
            wait_for_flag(rig, journaled=False)
            rig.kill()
        lost = [json.loads(body) for _, body in rig.collector.messages if '"journaled":false' in body]
        rig.start()
        rig.ready()
        request = {"run_id": lost[-1]["run_id"], "topic": f"event/{lost[-1]['stream']}/demo", "since_seq": 1}
        assert rig.ask(request)[1]["complete"] is False
        assert rig.ask(EVERYTHING)[1]["complete"] is False
        wait_for_flag(rig, journaled=True)
        newest = json.loads(rig.collector.messages[-1][1])
        request = {"run_id": newest["run_id"], "topic": f"event/{newest['stream']}/demo", "since_seq": 1}
        assert rig.ask(request)[1]["complete"] is True
        assert rig.stop() == 0


@pytest.mark.parametrize("options", [("ro",), ("nr_inodes=1",)], ids=["read-only", "full"])
def test_a_disk_in_trouble_from_the_start(options):
    with Rig(seed=14) as rig, mounted(rig.state, "4m", *options):
        rig.start()
        rig.ready()
        wait_for_flag(rig, journaled=False)
        assert rig.said.count("events go out unjournaled") == 1
        assert health(rig)[0] == 503
        subprocess.run(["mount", "-o", "remount,rw,nr_inodes=1000", rig.state], check=True)
        assert wait_for_flag(rig, journaled=True) <= RECOVERED_S
        check_replay(rig)
        assert rig.stop() == 0


SHIM = """
#include <unistd.h>
#include <sys/syscall.h>
static int slow(int number, int fd) { if (access(SLOW, F_OK) == 0) usleep(2500000); return syscall(number, fd); }
int fsync(int fd) { return slow(SYS_fsync, fd); }
int fdatasync(int fd) { return slow(SYS_fdatasync, fd); }
"""


def test_a_slow_disk_delays_no_heartbeat(tmp_path, monkeypatch):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, to make fsync slow")
    shim, slow = tmp_path / "slow.so", tmp_path / "slow"
    command = [compiler, "-shared", "-fPIC", f'-DSLOW="{slow}"', "-x", "c", "-", "-o", shim]
    subprocess.run(command, input=SHIM, text=True, check=True)
    monkeypatch.setitem(ENVIRONMENT, "LD_PRELOAD", str(shim))
    with Rig(seed=15) as rig:
        rig.start()
        rig.ready()
        wait_for_flag(rig, journaled=True)
        slow.touch()
        wait_for_flag(rig, journaled=True)
        assert until(lambda: "the disk does not answer" in str(health(rig)))
        n_before = rig.collector.runs.total()
        time.sleep(6)
        assert rig.collector.runs.total() - n_before >= 5
        slow.unlink()
        assert rig.stop() == 0
        assert set(flags(rig)) == {True}


def damaged(path, how):
    """Spoil a journal that nobody has open."""
    data = bytearray(path.read_bytes())
    if how == "garbage":
        data[:] = os.urandom(len(data))
    elif how == "cut":
        del data[len(data) // 2 :]
    elif how == "emptied tables":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE topics")
        return path.read_bytes()
    elif how == "other program's":
        path.unlink()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE recipes (name)")
        return path.read_bytes()
    elif how == "newer":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        return path.read_bytes()
    path.write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("how", ["garbage", "cut", "emptied tables", "other program's", "newer"])
def test_a_file_that_cannot_serve_is_kept_aside_and_a_new_one_begun(tmp_path, caplog, how):
    with journal_in(tmp_path, "first") as journal:
        assert journal.append([record(seq, "first") for seq in range(1, 200)], time.time_ns())
    data = damaged(tmp_path / NAME, how)
    with journal_in(tmp_path, "second") as journal:
        # A file that was cut may be good enough to be opened; then who writes finds out.
        assert journal.append([record(1, "second")], time.time_ns())
        assert journal.fault is None
        assert bodies(tmp_path) == [record_body for record_body in bodies(tmp_path) if '"second"' in record_body]
        (aside,) = (path for path in tmp_path.glob(f"{NAME}.*") if not path.name.endswith(("-wal", "-shm")))
        assert aside.name.startswith(f"{NAME}.{'newer' if how == 'newer' else 'damaged'}-")
        assert aside.read_bytes() == data or how == "cut"
        assert rows(tmp_path, "SELECT missing_id, missing_ns > 0 FROM whole") == [(0, 1)]
    told = [line for line in caplog.messages if "a new one is begun" in line]
    assert len(told) == 1
    assert str(tmp_path / NAME) in told[0]
    assert aside.name in told[0]


def test_open_events_of_a_damaged_file_are_saved(tmp_path):
    journal = Journal(tmp_path, "first", SETTINGS)
    assert journal.append([record(1, "first", event_id="a")], time.time_ns())
    for at in range(2, 400, 50):
        batch = [record(seq, "first", stream="gate", state="end") for seq in range(at, at + 50)]
        assert journal.append(batch, time.time_ns())
    kill(journal)
    path = tmp_path / NAME
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'").fetchone()
    data = bytearray(path.read_bytes())
    data[(root - 1) * 4096 : root * 4096] = os.urandom(4096)
    path.write_bytes(data)
    with journal_in(tmp_path, "second") as journal:
        assert [left.event_id for left in journal.left_open()] == ["a"]


def test_damage_met_while_running_loses_nothing_that_is_published_then():
    with Rig(seed=16) as rig:
        rig.start()
        rig.ready()
        wait_for_flag(rig, journaled=True)
        with (rig.state / NAME).open("r+b") as file:
            file.write(os.urandom(4096 * 30))
        with (rig.state / f"{NAME}-wal").open("r+b") as file:
            file.write(os.urandom(os.fstat(file.fileno()).st_size))
        rig.ask(EVERYTHING)  # who reads may find out first
        assert until(lambda: "a new one is begun" in rig.said)
        n_before = len(rig.collector.messages)
        assert until(lambda: len(rig.collector.messages) > n_before + 20)
        assert set(flags(rig)) == {True}
        fresh = {body for _, body in rig.collector.messages[n_before:]}
        replayed, done = rig.ask(EVERYTHING)
        assert fresh <= set(replayed)
        assert done["complete"] is False
        assert rig.stop() == 0
        # Events that went on meanwhile have their end in the new file.
        assert rows(rig.state, "SELECT count(*) FROM open_events") == [(0,)]


def test_a_file_that_is_taken_away_is_begun_anew():
    with Rig(seed=17) as rig:
        rig.start()
        rig.ready()
        wait_for_flag(rig, journaled=True)
        for path in rig.state.glob(f"{NAME}*"):
            path.unlink()
        assert until(lambda: "no longer in its place" in rig.said)
        n_before = len(rig.collector.messages)
        assert until(lambda: len(rig.collector.messages) > n_before + 10)
        assert rig.stop() == 0
        assert {message["seq"] for message in messages(rig.state)}
        assert {body for _, body in rig.collector.messages[n_before:]} <= set(bodies(rig.state))
