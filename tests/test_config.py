"""config.toml: what is accepted, and for every mistake one line that says what would be."""

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectd.config.config import (
    DeviceStream,
    FileStream,
    SyntheticStream,
    ZmqStream,
    load_config,
    matches,
)
from detectd.errors import ConfigError

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def load(tmp_path):
    def write_and_load(text):
        path = tmp_path / "config.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path)

    return write_and_load


@pytest.fixture
def refusal(load, tmp_path):
    def message(text):
        with pytest.raises(ConfigError) as caught:
            load(text)
        line = str(caught.value)
        assert caught.value.exit_code == 2
        assert "\n" not in line
        assert line.startswith(f"{tmp_path}/config.toml: ")
        return line.removeprefix(f"{tmp_path}/config.toml: ")

    return message


def detector(**changes):
    """A `[[detector]]` table as TOML text; None leaves a key out."""
    keys = {"name": '"pump"', "bundle": '"b.detectd"', "streams": '["*"]', **changes}
    return "[[detector]]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items() if value is not None)


def stream(source, stream_id="x", **keys):
    values = {"id": f'"{stream_id}"', "source": f'"{source}"', **keys}
    return "[[stream]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


def test_an_empty_file_holds_the_documented_defaults(load, tmp_path):
    config = load("")
    assert config.service.state_dir == tmp_path / "var"
    assert config.service.workers == 1
    assert config.ingest.bind == ("tcp://127.0.0.1:5555",)
    assert config.ingest.connect == ()
    assert config.ingest.max_backlog_s == 10.0
    assert config.publish.events == "tcp://127.0.0.1:5557"
    assert config.publish.replay == "tcp://127.0.0.1:5558"
    assert (config.metrics.host, config.metrics.port) == ("127.0.0.1", 9108)
    assert config.security.trust == "hashed"
    assert config.streams == ()
    assert config.detectors == ()


def test_detector_defaults(load, tmp_path):
    (pump,) = load(detector()).detectors
    assert pump.bundle == tmp_path / "b.detectd"
    assert (pump.hop_s, pump.min_duration_s, pump.hold_s) == (0.25, 0.5, 2.0)
    assert (pump.alarm_on, pump.threshold, pump.false_alarms_per_day) == ("present", None, None)


def test_every_kind_of_stream(load, tmp_path):
    config = load(
        stream("zmq", "hydrophone-*", mask_hz="[50, 100.5]")
        + stream("device", "mic", device='"USB"', rate_hz=48000, channels=2, mix="true")
        + stream("file", "clip", path='"a.wav"', loop="true", speed=10)
        + stream("synthetic", "demo", tones_hz="[100, 250.5]", snr_db=-12, on_s=3, off_s=0, rate_hz=16000, seed=7)
    )
    assert config.streams == (
        ZmqStream(id="hydrophone-*", mask_hz=(50.0, 100.5)),
        DeviceStream(id="mic", device="USB", rate_hz=48000, channels=2, mix=True),
        FileStream(id="clip", path=tmp_path / "a.wav", loop=True, speed=10.0),
        SyntheticStream(id="demo", tones_hz=(100.0, 250.5), snr_db=-12.0, on_s=3.0, off_s=0.0, rate_hz=16000, seed=7),
    )


def test_a_stream_needs_only_id_and_source(load, tmp_path):
    (synthetic,) = load(stream("synthetic")).streams
    assert synthetic == SyntheticStream(id="x", rate_hz=44100, seed=0)
    (clip,) = load(stream("file", path='"a.wav"')).streams
    assert clip == FileStream(id="x", path=tmp_path / "a.wav", loop=False, speed=1.0)


def test_integers_are_floats_and_zero_is_a_duration(load):
    (pump,) = load(detector(hop_s=1, min_duration_s=0, hold_s=0, threshold=-3)).detectors
    assert (pump.hop_s, pump.min_duration_s, pump.hold_s, pump.threshold) == (1.0, 0.0, 0.0, -3.0)
    assert all(isinstance(value, float) for value in (pump.hop_s, pump.min_duration_s, pump.threshold))


def test_paths_are_relative_to_the_file_not_to_the_shell(tmp_path, monkeypatch):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "c.toml").write_text('[ingest]\nbind = ["ipc://in.sock"]\n' + detector(bundle='"/abs"'))
    monkeypatch.chdir(tmp_path)
    config = load_config("etc/c.toml")
    assert config.path == Path("etc/c.toml")
    assert config.service.state_dir == tmp_path / "etc" / "var"
    assert config.ingest.bind == (f"ipc://{tmp_path}/etc/in.sock",)
    assert config.detectors[0].bundle == Path("/abs")


def test_configuration_is_frozen(load):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("").service.workers = 2


# --- which stream a sender falls to


def test_first_stream_that_matches_wins(load):
    config = load(stream("zmq", "yard-1") + stream("zmq", "yard-*", mask_hz="[50]") + stream("zmq", "*"))
    assert config.stream_for("yard-1").mask_hz == ()
    assert config.stream_for("yard-2").mask_hz == (50.0,)
    assert config.stream_for("sea/3").id == "*"
    assert load(stream("zmq", "yard-*")).stream_for("sea") is None


def test_own_sources_have_their_ids_to_themselves(load):
    config = load(stream("zmq", "*") + stream("synthetic", "demo"))
    assert isinstance(config.stream_for("demo"), SyntheticStream)
    assert isinstance(config.stream_for("demo/1"), SyntheticStream)
    assert isinstance(config.stream_for("demo-2"), ZmqStream)


@pytest.mark.parametrize(
    ("stream_id", "pattern", "expected"),
    [
        ("yard", "yard", True),
        ("yard", "YARD", False),
        ("array/1", "array", True),  # a channel of the source
        ("array/1", "array/*", True),
        ("array/1", "array/0", False),
        ("array/x", "array", False),
        ("hydro-7", "hydro-[0-9]", True),
        ("hydro-7", "hydro-?", True),
        ("/1", "", False),
    ],
)
def test_globs(stream_id, pattern, expected):
    assert matches(stream_id, pattern) == (expected or pattern == "")


# --- mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[detectors]\n", 'unknown key "detectors"; the nearest valid one is "detector"'),
        ("[ingest]\nbindd = []\n", 'ingest: unknown key "bindd"; the nearest valid one is "bind"'),
        (detector(hops="1"), 'detector \'pump\': unknown key "hops"; the nearest valid one is "hop_s"'),
        (detector(band_low_hz="1"), "detector 'pump': unknown key \"band_low_hz\""),
        (
            stream("synthetic", tone_hz="[1]"),
            'stream \'x\': unknown key "tone_hz"; the nearest valid one is "tones_hz"',
        ),
        (
            stream("zmq", tones_hz="[1]"),
            'stream \'x\': key "tones_hz" belongs to source = "synthetic"; this stream has source = "zmq"',
        ),
        (stream("file", rate_hz="8000"), 'key "rate_hz" belongs to source = "device" or "synthetic"'),
        ("zmq = 1\n", 'unknown key "zmq"'),
    ],
)
def test_unknown_keys_name_the_nearest(refusal, text, message):
    assert message in refusal(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stream = 3\n", "stream is 3; accepted: an array of tables, [[stream]]"),
        ('[stream]\nid = "x"\n', 'stream is {"id": "x"}; accepted: an array of tables, [[stream]]'),
        ("ingest = []\n", "ingest is []; accepted: a table, [ingest]"),
        ('[ingest]\nbind = "tcp://127.0.0.1:1"\n', 'ingest.bind is "tcp://127.0.0.1:1"; accepted: a list of strings'),
        ("[ingest]\nmax_backlog_s = 0\n", "ingest.max_backlog_s is 0; accepted: a number from 1 to 3600"),
        ("[service]\nworkers = true\n", "service.workers is true; accepted: an integer"),
        ("[service]\nworkers = 2\n", "service.workers is 2; accepted: 1 (this version runs one engine)"),
        ("[service]\nstate_dir = 5\n", "service.state_dir is 5; accepted: a string"),
        ('[security]\ntrust = "signed"\n', 'security.trust is "signed"; accepted: "hashed" (this version'),
        ('[security]\ntrust = "blind"\n', 'security.trust is "blind"; accepted: "hashed" or "signed"'),
        ('[security]\nkeys = ["a"]\n', 'security.keys is ["a"]; accepted: []'),
        (detector(hop_s="0"), "detector 'pump': hop_s is 0; accepted: a number above 0"),
        (detector(hop_s='"0.25"'), "detector 'pump': hop_s is \"0.25\"; accepted: a number above 0"),
        (detector(hop_s="true"), "hop_s is true; accepted: a number above 0"),
        (detector(hop_s="nan"), "hop_s is NaN; accepted: a number above 0"),
        (detector(hop_s="1e308"), "hop_s is 1e+308; accepted: a number above 0 and at most 86400"),
        (detector(hold_s="-1"), "hold_s is -1; accepted: a number from 0 to 86400"),
        (detector(hold_s="86401"), "hold_s is 86401; accepted: a number from 0 to 86400"),
        (detector(min_duration_s="inf"), "min_duration_s is Infinity; accepted: a number from 0 to 86400"),
        (detector(threshold="inf"), "threshold is Infinity; accepted: a number that is finite"),
        (detector(threshold="1" + "0" * 400), "accepted: a number that is finite"),
        (detector(threshold="0x" + "f" * 9999), "accepted: a number that is finite"),
        (detector(false_alarms_per_day="0"), "false_alarms_per_day is 0; accepted: a number above 0"),
        (
            detector(false_alarms_per_day="1", threshold="2"),
            "detector 'pump': false_alarms_per_day and threshold exclude each other",
        ),
        (detector(alarm_on='"always"'), 'alarm_on is "always"; accepted: "present" or "absent"'),
        (detector(name='"a/b"'), "detector 'a/b': name is \"a/b\"; accepted: at most 64 of"),
        (detector(name='"a\\nb"'), "detector 'a\\nb': name is"),
        (detector(name=None), 'detector 1: key "name" is missing'),
        (detector(bundle=None), "detector 'pump': key \"bundle\" is missing"),
        (detector(streams="[]"), "streams is []; accepted: a list of stream ids or globs"),
        (detector(streams='[""]'), 'streams is [""]; accepted: a list of strings that are not empty'),
        (detector(streams='["a b"]'), 'streams is ["a b"]; accepted: a list of stream ids or globs'),
        (detector() + detector(), "detector name 'pump' is given twice"),
        (stream("zmq") + stream("zmq"), "stream id 'x' is given twice"),
        (stream("usb"), 'stream \'x\': source is "usb"; accepted: "zmq" or "device" or "file" or "synthetic"'),
        ('[[stream]]\nsource = "zmq"\n', 'stream 1: key "id" is missing'),
        (stream("zmq", "a b"), 'id is "a b"; accepted: at most 64 of'),
        (stream("synthetic", "a*"), 'id is "a*"; accepted: at most 32 of'),
        (stream("synthetic", "a" * 33), "accepted: at most 32 of"),
        (stream("synthetic", rate_hz="7999"), "rate_hz is 7999; accepted: an integer from 8000 to 192000"),
        (stream("synthetic", rate_hz="44100.0"), "rate_hz is 44100.0; accepted: an integer from 8000 to 192000"),
        (
            stream("synthetic", tones_hz="[9000]", rate_hz="16000"),
            "tones_hz is [9000]; accepted: a list of numbers, each above 0 and below half of rate_hz, 8000",
        ),
        (stream("synthetic", tones_hz="[8000]", rate_hz="16000"), "each above 0 and below half of rate_hz, 8000"),
        (stream("synthetic", tones_hz='["a"]'), 'tones_hz is ["a"]; accepted: a list of numbers'),
        (stream("synthetic", on_s="0"), "on_s is 0; accepted: a number above 0"),
        (stream("synthetic", on_s="1e9"), "on_s is 1000000000.0; accepted: a number above 0 and at most 86400"),
        (stream("synthetic", off_s="1e9"), "off_s is 1000000000.0; accepted: a number from 0 to 86400"),
        (stream("synthetic", seed="-1"), "seed is -1; accepted: an integer from 0"),
        (stream("zmq", mask_hz="[0]"), "mask_hz is [0]; accepted: a list of numbers, each above 0"),
        (stream("device", channels="65"), "channels is 65; accepted: an integer from 1 to 64"),
        (stream("file"), "stream 'x': key \"path\" is missing"),
        (
            stream("file", path='"a"', speed="-1"),
            "speed is -1; accepted: 0 (as fast as it is accepted) or a number from",
        ),
        (stream("file", path='"a"', speed="1e-300"), "or a number from 0.001 to 10000"),
        (stream("file", path='"a"', speed="1e5"), "or a number from 0.001 to 10000"),
        (
            stream("file", path='"a"', loop="true", speed="0"),
            "speed is 0; accepted: a number above 0 while loop = true",
        ),
        (stream("file", path='"a"', loop="1"), "loop is 1; accepted: true or false"),
    ],
)
def test_wrong_values_say_what_is_accepted(refusal, text, message):
    assert message in refusal(text)


# --- addresses


@pytest.mark.parametrize(
    ("given", "bound"),
    [
        ("tcp://127.0.0.1:5000", "tcp://127.0.0.1:5000"),
        ("tcp://localhost:5000", "tcp://127.0.0.1:5000"),
        ("tcp://127.9.9.9:5000", "tcp://127.9.9.9:5000"),
        ("tcp://[::1]:5000", "tcp://[::1]:5000"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:0"),
        ("ipc:///run/detectd.sock", "ipc:///run/detectd.sock"),
        ("ipc://@abstract", "ipc://@abstract"),
        ("inproc://a", "inproc://a"),
    ],
)
def test_local_addresses(load, given, bound):
    assert load(f'[publish]\nevents = "{given}"\n').publish.events == bound


OPEN_ADDRESSES = [
    "tcp://*:5000",
    "tcp://0.0.0.0:5000",
    "tcp://[::]:5000",
    "tcp://10.0.0.1:5000",
    "tcp://eth0:5000",
    "tcp://example.org:5000",
    "tcp://[::ffff:10.0.0.1]:5000",
]


@pytest.mark.parametrize("address", OPEN_ADDRESSES)
@pytest.mark.parametrize("key", ["ingest.bind", "publish.events", "publish.replay", "metrics.bind"])
def test_addresses_others_can_reach_are_refused(refusal, key, address):
    table, name = key.split(".")
    value = address.removeprefix("tcp://") if table == "metrics" else address
    value = f'["{value}"]' if table == "ingest" else f'"{value}"'
    line = refusal(f"[{table}]\n{name} = {value}\n")
    assert line.startswith(key)
    assert "accepted: a loopback address" in line
    assert "no CURVE keys" in line


@pytest.mark.parametrize(
    "address", ["", "5555", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "udp://127.0.0.1:5", "ipc://", "inproc://"]
)
def test_malformed_addresses(refusal, address):
    assert "accepted: " in refusal(f'[publish]\nevents = "{address}"\n')
    assert "accepted: " in refusal(f'[ingest]\nconnect = ["{address}"]\n')


def test_ipc_paths_that_no_kernel_binds(refusal):
    assert "at most 107 bytes" in refusal(f'[publish]\nevents = "ipc:///{"a" * 120}"\n')


def test_connecting_out_is_allowed(load):
    config = load('[ingest]\nconnect = ["tcp://hub.example.org:5000", "tcp://[fe80::1%eth0]:5000"]\n')
    assert config.ingest.connect == ("tcp://hub.example.org:5000", "tcp://[fe80::1%eth0]:5000")


def test_one_address_for_two_sockets(refusal, load):
    line = refusal('[publish]\nevents = "tcp://localhost:5555"\n')
    assert line.startswith('publish.events and ingest.bind are both "tcp://127.0.0.1:5555"')
    assert "metrics.bind and publish.replay" in refusal('[metrics]\nbind = "127.0.0.1:5558"\n')
    load('[publish]\nevents = "tcp://127.0.0.1:*"\nreplay = "tcp://127.0.0.1:*"\n')


# --- files that are no TOML


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[ingest]\nbind = \n", "line 2, column 8: "),
        ("a = 1\nb = [", "line 2, column 6: "),
        ("a = 1\na = 2\n", "line 2, column 6: Cannot overwrite a value"),
        (b"a = 1\nb = \xff\n", "line 2, column 5: not UTF-8"),
        (b"RIFF\x00\x00\x01", "line 1, column 5: "),
        (b"\x00" * (1 << 21), "larger than 1048576 bytes"),
        ("a = " + "[" * 100_000, "cannot be read as TOML"),
        ("a = " + "1" * 5_000, "cannot be read as TOML"),
    ],
)
def test_files_that_are_no_toml(refusal, text, message):
    assert refusal(text).startswith(message)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"^nowhere\.toml: cannot be read: No such file or directory$"):
        load_config("nowhere.toml")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(tmp_path))}: cannot be read: Is a directory$"):
        load_config(tmp_path)


# --- laws

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def spelt(value):
    """`value` as TOML; None and what TOML cannot say become an empty string."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return '"' + "".join(f"\\U{ord(char):08x}" for char in value if not 0xD800 <= ord(char) < 0xE000) + '"'
        case list():
            return "[" + ", ".join(map(spelt, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{spelt(key)} = {spelt(item)}" for key, item in value.items()) + "}"
    return '""'


KEYS = [
    ("service", "state_dir"), ("service", "workers"), ("ingest", "bind"), ("ingest", "connect"),
    ("ingest", "max_backlog_s"), ("publish", "events"), ("publish", "replay"), ("metrics", "bind"),
    ("security", "trust"), ("security", "keys"),
]  # fmt: skip


def refused_in_one_line(path, place):
    """Load; a file that is refused must be so in the form the commands print."""
    try:
        load_config(path)
    except ConfigError as error:
        line = str(error)
    else:
        return
    assert line.startswith(f"{path}: {place}")
    assert line.isprintable()


@given(place=st.sampled_from(KEYS), value=VALUES)
def test_any_value_loads_or_is_refused_in_one_line(tmp_path_factory, place, value):
    path = tmp_path_factory.mktemp("any") / "config.toml"
    path.write_text(f"[{place[0]}]\n{place[1]} = {spelt(value)}\n", encoding="utf-8")
    refused_in_one_line(path, place[0])


TABLE_KEYS = ["id", "source", "mask_hz", "name", "bundle", "streams", "hop_s", "path", "speed", "tones_hz", "rate_hz"]
SOURCES = st.sampled_from(["zmq", "file", "synthetic", "device", "x"])


@given(
    table=st.sampled_from(["stream", "detector"]),
    keys=st.dictionaries(st.sampled_from(TABLE_KEYS), VALUES | SOURCES),
)
def test_any_table_loads_or_is_refused_in_one_line(tmp_path_factory, table, keys):
    path = tmp_path_factory.mktemp("any") / "config.toml"
    path.write_text(f"[[{table}]]\n" + "".join(f"{key} = {spelt(item)}\n" for key, item in keys.items()))
    refused_in_one_line(path, table)


def test_the_shipped_file():
    config = load_config(REPOSITORY / "config.toml")
    assert isinstance(config.streams[0], SyntheticStream)
    assert config.streams[0].tones_hz
    assert config.stream_for("anything") is not None
    assert config.detectors
    assert all(detector.bundle.is_relative_to(REPOSITORY / "bundles") for detector in config.detectors)
