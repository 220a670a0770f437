"""The command line as a user meets it: real processes, their output, their exit codes.

A start of Python with numpy costs a second, so all commands of a table are started ahead, as many at a time as there
are cores, and each test waits for its own.
"""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import zmq
from daemon_process import BUNDLE, ENVIRONMENT, config, running
from plain_wire import Push, Source, Subscriber
from sounds import recording, write

from detectd.config.config import load_config
from detectd.errors import SourceError
from detectd.send import AudioFile, send_files
from detectd.streams.wire import blocks_of

RATE_HZ = 8000
MANIFEST = json.loads((BUNDLE / "manifest.json").read_text())
FEATURES = MANIFEST["views"][0]["features"]
WINDOW_S = FEATURES["window_s"]
HOP_S = 0.25
ON_ANY = '[[stream]]\nid = "*"\nsource = "zmq"\n'
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that commands run in: audio of every sort, configurations good and bad, a port that is taken."""
    path = tmp_path_factory.mktemp("cli")
    sound = recording(1, 2, 1, seed=1)
    write(path / "good.wav", sound)
    write(path / "window.wav", sound[: round(WINDOW_S * RATE_HZ)])
    write(path / "short.wav", sound[:RATE_HZ])
    write(path / "stereo.wav", np.stack([sound, np.zeros_like(sound)], axis=1))
    write(path / "mono.wav", sound / 2)
    for rate_hz in (48_000, 192_000):
        write(path / f"{rate_hz}.wav", recording(1, 2, 1, rate_hz, seed=1), rate_hz)
    for name in ("sound.flac", "sound.ogg"):
        soundfile.write(path / name, *soundfile.read(path / "good.wav", dtype="int16"))
    write(path / "low.wav", np.zeros(8000), 2000)
    write(path / "empty.wav", np.zeros(0))
    (path / "text.wav").write_text("not audio at all")
    (path / "nothing.wav").touch()
    soundfile.write(path / "nan.wav", np.full(100, np.nan), RATE_HZ, subtype="FLOAT")
    shutil.copytree(BUNDLE, path / "tampered.detectd")
    graph = path / "tampered.detectd" / MANIFEST["views"][0]["graph"]
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for name, text in configurations(port).items():
            # Each has a state directory of its own: they run side by side.
            state = "good.wav" if name == "state-is-a-file" else f"state-{name}"
            (path / f"{name}.toml").write_text(f'[service]\nstate_dir = "{state}"\n{text}')
        yield path


def configurations(taken):
    """Configurations by name; each bad one has one mistake."""
    address = f"127.0.0.1:{taken}"
    free = (
        'bind = ["tcp://127.0.0.1:0"]',
        'events = "tcp://127.0.0.1:0"',
        'bind = "127.0.0.1:0"',
        'replay = "tcp://127.0.0.1:0"',
    )
    good = config(ON_ANY)
    return {
        "good": good,
        "unknown-key": good + "hop = 1\n",
        "unknown-table": good + "[metric]\n",
        "wrong-type": config(ON_ANY, hop_s='"quick"'),
        "not-toml": "hop = = 1",
        "no-bundle": config(ON_ANY, bundle='"none.detectd"'),
        "bad-bundle": config(ON_ANY, bundle='"tampered.detectd"'),
        "no-tail": config(ON_ANY, false_alarms_per_day=1),
        "no-file": config('[[stream]]\nid = "a"\nsource = "file"\npath = "missing.wav"\n'),
        "no-audio": config('[[stream]]\nid = "a"\nsource = "file"\npath = "text.wav"\n'),
        "low-file": config('[[stream]]\nid = "a"\nsource = "file"\npath = "low.wav"\n'),
        "tone-too-high": config('[[stream]]\nid = "a"\nsource = "synthetic"\nrate_hz = 8000\ntones_hz = [5000]\n'),
        "taken-ingest": good.replace(free[0], f'bind = ["tcp://{address}"]'),
        "taken-events": good.replace(free[1], f'events = "tcp://{address}"'),
        "taken-metrics": good.replace(free[2], f'bind = "{address}"'),
        "taken-replay": good.replace(free[3], f'replay = "tcp://{address}"'),
        "state-is-a-file": good,
        "wrong-age": good + "[journal]\nmax_age_days = 0\n",
        "wrong-size": good + "[journal]\nmax_size_mb = 1\n",
    }


# What is told of a bad configuration: exit code, and what the one line names.
BAD_CONFIGURATIONS = {
    "unknown-key": (2, ["unknown-key.toml", "detector 'demo'", '"hop"', '"hop_s"']),
    "unknown-table": (2, ["unknown-table.toml", '"metric"', '"metrics"']),
    "wrong-type": (2, ["wrong-type.toml", "detector 'demo'", "hop_s", '"quick"', "a number above 0"]),
    "not-toml": (2, ["not-toml.toml", "line 3, column 7"]),
    "no-bundle": (3, ["no-bundle.toml", "detector 'demo'", "none.detectd", "not found", "detectd-train fit"]),
    "bad-bundle": (3, ["bad-bundle.toml", "detector 'demo'", "tampered.detectd", "SHA-256"]),
    "no-tail": (2, ["no-tail.toml", "detector 'demo'", "false_alarms_per_day", "threshold"]),
    "no-file": (2, ["no-file.toml", "stream 'a'", "missing.wav", "No such file"]),
    "no-audio": (2, ["no-audio.toml", "stream 'a'", "text.wav", "WAV, FLAC or OGG"]),
    "low-file": (2, ["low-file.toml", "stream 'a'", "low.wav", "2000 samples/s", "at least"]),
    "tone-too-high": (2, ["tone-too-high.toml", "stream 'a'", "tones_hz", "5000", "4000"]),
    "wrong-age": (2, ["wrong-age.toml", "journal.max_age_days", "is 0", "above 0"]),
    "wrong-size": (2, ["wrong-size.toml", "journal.max_size_mb", "is 1", "from 8 to"]),
    "absent": (2, ["absent.toml", "No such file"]),
}
TAKEN_PORTS = {
    "taken-ingest": (2, ["ingest.bind", "in use"]),
    "taken-events": (2, ["publish.events", "in use"]),
    "taken-metrics": (2, ["metrics.bind", "in use"]),
    "taken-replay": (2, ["publish.replay", "in use"]),
    "state-is-a-file": (2, ["service.state_dir", "good.wav", "not a directory"]),
}
SEND = ["--stream", "a", "--to", "tcp://127.0.0.1:9"]
SCORE = ["--bundle", BUNDLE]
# Every other mistake: the command, its exit code and what its one line names.
MISTAKES = {
    "capture id": (["capture", "--device", "m", "--stream", "a b"], 2, ["--stream", "'a b'", "32"]),
    "capture rate": (["capture", "--device", "m", "--stream", "a", "--rate", "5"], 2, ["--rate", "5", "8000"]),
    "capture to": (["capture", "--device", "m", "--stream", "a", "--to", "there"], 2, ["--to", "there", "tcp://"]),
    "capture device": (["capture", "--device", " ", "--stream", "a"], 2, ["--device", "detectd devices"]),
    "score missing": (["score", "missing.wav", *SCORE], 1, ["missing.wav", "No such file"]),
    "score text": (["score", "text.wav", *SCORE], 1, ["text.wav", "WAV, FLAC or OGG"]),
    "score nothing": (["score", "nothing.wav", *SCORE], 1, ["nothing.wav", "WAV, FLAC or OGG"]),
    "score empty": (["score", "empty.wav", *SCORE], 1, ["empty.wav", "no audio"]),
    "score nan": (["score", "nan.wav", *SCORE], 1, ["nan.wav", "not finite"]),
    "score low rate": (["score", "low.wav", *SCORE], 1, ["low.wav", "2000", MANIFEST["name"], "at least"]),
    "score no bundle": (["score", "good.wav", "--bundle", "none.detectd"], 3, ["none.detectd", "not found"]),
    "score tampered": (["score", "good.wav", "--bundle", "tampered.detectd"], 3, ["tampered.detectd", "SHA-256"]),
    **{
        f"score hop {hop}": (["score", "good.wav", *SCORE, "--hop", hop], 1, ["--hop", hop, "above 0"])
        for hop in ("0", "-1", "nan", "inf", "1e+308")
    },
    "send missing": (["send", "missing.wav", *SEND], 1, ["missing.wav", "No such file"]),
    "send text": (["send", "text.wav", *SEND], 1, ["text.wav", "WAV, FLAC or OGG"]),
    "send empty": (["send", "empty.wav", *SEND], 1, ["empty.wav", "no audio"]),
    "send bad id": (["send", "good.wav", "--stream", "a b"], 1, ["--stream", "'a b'", "A-Z a-z 0-9"]),
    "send nowhere": (["send", "good.wav", "--stream", "a", "--to", "here"], 1, ["--to", "here", "tcp://127.0.0.1"]),
    "send backwards": (["send", "good.wav", *SEND, "--speed", "-1"], 1, ["--speed", "-1", "0 (as fast as accepted)"]),
    **{
        f"send at {speed}": (["send", "good.wav", *SEND, "--speed", speed], 1, ["--speed", "from 0.001 to 10000"])
        for speed in ("nan", "inf", "1e-9")
    },
    "send untimely": (["send", "good.wav", *SEND, "--start-time", "noon"], 1, ["--start-time", "'noon'", "RFC 3339"]),
    "listen to fewer than none": (["listen", "--last", "-1"], 1, ["--last -1", "at least 0"]),
    "events of no journal": (["events", "--config", "good.toml"], 1, ["state-good", "no journal"]),
    "events since noon": (
        ["events", "--config", "good.toml", "--since", "noon"],
        1,
        ["'noon'", "RFC 3339", "2h"],
    ),
    "events of no config": (["events", "--config", "absent.toml"], 2, ["absent.toml", "No such file"]),
    "listen nowhere": (["listen", "--from", "here"], 1, ["--from", "here", "tcp://127.0.0.1"]),
    "inspect missing": (["bundle", "inspect", "none.detectd"], 3, ["none.detectd", "not found"]),
    "inspect tampered": (["bundle", "inspect", "tampered.detectd"], 3, ["tampered.detectd", "SHA-256"]),
    "verify tampered": (["bundle", "verify", "tampered.detectd"], 3, ["tampered.detectd", "SHA-256"]),
    **{f"check {name}": (["check", "--config", f"{name}.toml"], *told) for name, told in BAD_CONFIGURATIONS.items()},
    **{
        f"run {name}": (["run", "--config", f"{name}.toml"], *told)
        for name, told in (BAD_CONFIGURATIONS | TAKEN_PORTS).items()
    },
}
GOOD = {
    "check": ["check", "--config", "good.toml"],
    "check --json": ["check", "--config", "good.toml", "--json"],
    "inspect": ["bundle", "inspect", BUNDLE],
    "inspect --json": ["bundle", "inspect", BUNDLE, "--json"],
    "verify": ["bundle", "verify", BUNDLE],
    "score": ["score", "./good.wav", "window.wav", "short.wav", "stereo.wav", "mono.wav", *SCORE],
    "score --hop": ["score", "good.wav", *SCORE, "--hop", "0.5"],
    "score --json": ["score", "./good.wav", "window.wav", *SCORE, "--json"],
    "score kinds": ["score", "good.wav", "48000.wav", "192000.wav", "sound.flac", "sound.ogg", *SCORE],
    "score some": ["score", "text.wav", "window.wav", "empty.wav", *SCORE],
}
HELP = [[], *([name] for name in ("run", "check", "send", "listen", "events", "devices", "capture", "score"))]
HELP += [["bundle"]]
HELP += [["bundle", "inspect"], ["bundle", "verify"]]


def detectd(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "detectd", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


@pytest.fixture(scope="module")
def done(folder, request):
    """Results of the commands that the chosen tests ask for, all started by the first."""
    wanted = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    commands = {name: told[0] for name, told in MISTAKES.items() if name in wanted} | GOOD
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        yield {name: pool.submit(detectd, folder, *arguments) for name, arguments in commands.items()}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_its_exit_code(done, name):
    result, (_, code, named) = done[name].result(), MISTAKES[name]
    lines = result.stderr.splitlines()
    assert (result.returncode, len(lines)) == (code, 1), result.stderr
    assert lines[0].startswith("error: ")
    assert [words for words in named if words not in lines[0]] == []
    assert result.stdout in {"", "path,start_s,end_s,score\n"}


@pytest.mark.parametrize("options", [["--hop", "x"], ["--bundel", "a"], []], ids=" ".join)
def test_what_is_no_command_gets_its_usage(folder, options):
    result = detectd(folder, "score", "good.wav", *options)
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: detectd score")
    assert (options or ["--bundle"])[0] in result.stderr
    assert "Traceback" not in result.stderr


def test_what_the_samples_are_too_few_for_is_counted_by_the_daemon(folder, daemon):
    # The live twin of "score low rate".
    with Push(daemon.ingest) as push, Subscriber(daemon.events) as events:
        low = Source("low", rate_hz=2000)
        push.send(low.next(np.zeros(1000)))
        push.send(low.next(np.zeros(1000)))
        push.send(*Source("beside").blocks(recording(0, 3, 0)))
        events.wait_for("beside", "end")
    assert daemon.scrape().audio("rejected_samples_total", "low", reason="rate-too-low") == 2000
    daemon.wait_for_line("stream low: refused, its detectors need at least")
    assert daemon.stderr.count("stream low") == 1


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_every_command_explains_itself(folder, command):
    result = detectd(folder, *command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: detectd {' '.join(command)}".rstrip())
    assert len(result.stdout.splitlines()) >= 5


def test_check_tells_what_would_run(done, folder):
    text, plan = done["check"].result(), json.loads(done["check --json"].result().stdout)
    assert (text.returncode, text.stderr) == (0, "")
    (detector,) = plan["detectors"]
    assert detector["on"] == MANIFEST["threshold"]["on"]
    assert detector["band_hz"] == [FEATURES["band_low_hz"], FEATURES["band_high_hz"]]
    assert detector["bundle"].startswith(f"{MANIFEST['name']}@")
    assert plan["streams"] == [{"id": "*", "source": "zmq"}]
    assert plan["events"] == load_config(folder / "good.toml").publish.events
    for words in ("good.toml: good", "detector    demo", detector["bundle"]):
        assert words in text.stdout


def test_inspect_prints_the_manifest_byte_for_byte(done):
    assert done["inspect --json"].result().stdout == (BUNDLE / "manifest.json").read_text()
    text = done["inspect"].result()
    digest = (BUNDLE / "manifest.sha256").read_text().strip()
    for words in (MANIFEST["name"], MANIFEST["kind"], MANIFEST["label"], digest[:12]):
        assert words in text.stdout
    verified = done["verify"].result()
    assert verified.returncode == 0
    assert digest in verified.stdout


def rows_of(result):
    """Rows by path."""
    reader = csv.reader(result.stdout.splitlines())
    assert next(reader) == ["path", "start_s", "end_s", "score"]
    rows = {}
    for path, start_s, end_s, score in reader:
        rows.setdefault(path, []).append((float(start_s), float(end_s), float(score)))
    return rows


def test_score_prints_a_row_for_every_window(done):
    result = done["score"].result()
    assert (result.returncode, result.stderr) == (0, "")
    rows = rows_of(result)
    assert list(rows) == ["./good.wav", "window.wav", "short.wav", "stereo.wav", "mono.wav"]  # exactly as given
    n_windows = round((4 - WINDOW_S) / HOP_S) + 1
    starts_s = [number * HOP_S for number in range(n_windows)]
    assert [row[0] for row in rows["./good.wav"]] == pytest.approx(starts_s, abs=0.5 / RATE_HZ)
    assert all(end_s - start_s == pytest.approx(WINDOW_S) for start_s, end_s, _ in rows["./good.wav"])
    # The tones last from 1 s to 3 s.
    best = max(rows["./good.wav"], key=lambda row: row[2])
    assert abs(best[0] - 1) <= WINDOW_S / 2
    assert best[2] > MANIFEST["threshold"]["on"]


def test_a_file_of_one_window_or_less_is_one_row(done):
    rows = rows_of(done["score"].result())
    assert [row[:2] for row in rows["window.wav"]] == [row[:2] for row in rows["short.wav"]] == [(0, WINDOW_S)]
    # Another batch, hence other matrix products; and the last samples come from a filter that is flushed.
    assert rows["window.wav"][0][2] == pytest.approx(rows["./good.wav"][0][2], rel=1e-2, abs=1e-2)


def test_channels_are_averaged(done):
    rows = rows_of(done["score"].result())
    # 16 bits round differently before and after.
    assert [row[2] for row in rows["stereo.wav"]] == pytest.approx([row[2] for row in rows["mono.wav"]], abs=0.05)


def test_scores_have_nine_significant_digits(done):
    scores = [line.rsplit(",", 1)[1] for line in done["score"].result().stdout.splitlines()[1:]]
    digits = [len(re.sub(r"e.*|[-.]", "", score).lstrip("0")) for score in scores]
    assert max(digits) == 9  # fewer where the last ones are zeros


def test_hop_is_what_the_user_asks_for(done):
    starts_s = [row[0] for row in rows_of(done["score --hop"].result())["good.wav"]]
    assert starts_s == pytest.approx([0.5 * number for number in range(len(starts_s))], abs=0.5 / RATE_HZ)
    assert len(starts_s) == round((4 - WINDOW_S) / 0.5) + 1


def test_score_as_json_holds_the_same(done):
    rows = rows_of(done["score"].result())
    told = [json.loads(line) for line in done["score --json"].result().stdout.splitlines()]
    assert all(row.keys() == {"path", "start_s", "end_s", "score"} for row in told)
    assert [row["score"] for row in told if row["path"] == "./good.wav"] == pytest.approx(
        [row[2] for row in rows["./good.wav"]], rel=1e-8
    )
    assert [row["path"] for row in told].count("window.wav") == 1


def test_rates_and_file_types_make_no_difference(done):
    result = done["score kinds"].result()
    assert (result.returncode, result.stderr) == (0, "")
    rows = rows_of(result)
    assert list(rows) == ["good.wav", "48000.wav", "192000.wav", "sound.flac", "sound.ogg"]
    assert {len(found) for found in rows.values()} == {len(rows["good.wav"])}
    assert {max(found, key=lambda row: row[2])[2] > MANIFEST["threshold"]["on"] for found in rows.values()} == {True}
    exact = [row[2] for row in rows["good.wav"]]
    assert [row[2] for row in rows["sound.flac"]] == pytest.approx(exact, rel=1e-5, abs=1e-5)  # 16 bits both


def test_the_good_files_are_scored_beside_the_bad(done):
    result = done["score some"].result()
    assert result.returncode == 1
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()] == ["text.wav", "empty.wav"]
    assert list(rows_of(result)) == ["window.wav"]


@pytest.fixture
def pull():
    """A PULL socket on a free port, and its endpoint."""
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.linger, socket.rcvtimeo = 0, 10_000
        yield socket, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


def test_capture_time_goes_on_where_the_rate_changes(folder, pull):
    socket, endpoint = pull
    files = [folder / name for name in ("good.wav", "48000.wav", "good.wav")]
    send_files(files, "a", endpoint, 0, "2026-01-01T00:00:00Z", threading.Event())
    headers = []
    while sum(header.n_frames == 0 for header in headers) < len(files):  # each ends with an empty block
        headers += [block.header for block in blocks_of([memoryview(socket.recv())])]
    begin_ns = [header.t_first_utc_ns for header in headers if header.first_sample == 0]
    assert np.diff(begin_ns).tolist() == [4 * 10**9] * 2


def test_a_file_that_cannot_be_read_any_more_is_a_mistake_of_one_line(tmp_path):
    path = write(tmp_path / "gone.wav", np.zeros(RATE_HZ))
    file = AudioFile(path)
    path.unlink()
    with pytest.raises(SourceError, match=r"gone\.wav.*No such file"):
        next(file.blocks())


def test_send_stops_at_a_signal(folder, pull):
    socket, endpoint = pull
    command = [sys.executable, "-m", "detectd", "send", folder / "good.wav", "--stream", "a", "--to", endpoint]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as sender:
        try:
            socket.recv()
            sender.send_signal(signal.SIGINT)
            assert sender.wait(3) == 130
            assert re.fullmatch(r"stopped: \d+ samples of each channel\n", sender.stderr.read())
        finally:
            sender.kill()


def test_the_second_signal_ends_send_at_once(folder):
    command = [sys.executable, "-m", "detectd", "send", folder / "good.wav", *SEND]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as sender:
        try:
            assert "waiting for" in sender.stderr.readline()  # for a daemon that is not there
            sender.terminate()
            sender.terminate()
            assert sender.wait(3) == 130
        finally:
            sender.kill()


def test_a_terminal_that_takes_no_lines_does_not_keep_the_process():
    code = (
        "from detectd.monitor import log\n"
        "with log.to_stderr():\n"
        "    for number in range(30_000):\n"
        "        log.LOG.info('line %d', number)\n"
        "    print('done', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "done\n"
            began_s = time.monotonic()
            assert process.wait(10) == 0
            assert time.monotonic() - began_s < 4
            assert "line 0\n" in process.stderr.readline()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with running(tmp_path_factory.mktemp("daemon"), config(ON_ANY)) as process:
        yield process
