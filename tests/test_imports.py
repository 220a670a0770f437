"""Who may import whom, read from the source; and what the daemon's start must not bring in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "detectd"

# Rooms from the ground up: a module imports from the lines above its own, or from what stands left of it there.
ORDER = """
errors globs
dsp: audio spec synth
bundles: json_table folders
config: toml_table
streams: wire epoch sequencer backlog stream intake
dsp: resample history features clips
dsp: lines
engine: tracker event
onnx_guard: protobuf proto shapes layers graph
bundles: arrays manifest golden bundle scoring
engine: bank watch feed engine
capture: pulse_wire choice status clock ledger
config: endpoint stream_config config
monitor: exposition metrics http limit log_form log notify health caretaker
sockets send
capture: library pulse pin surroundings portaudio opener reader outlet forwarder recorder supervisor survey
publish: times message record request schema lock aside journal_file answer journal scribe publisher replay
service: ingest plan loop sources admission reload view private signs daemon
commands: check event_text events ledger replay_client listen score devices capture
bundles: report
cli __main__
"""


def places(text):
    """Module names of an order, in order."""
    for line in text.split("\n"):
        room, _, names = line.rpartition(": ")
        yield from (f"{room}.{name}" if room else name for name in names.split())


PURE = list(places(ORDER[: ORDER.index("config: endpoint")]))

TRAINING_MAY = """
errors
dsp: audio spec synth features clips lines
bundles: arrays manifest golden bundle scoring
"""
NOT_IN_THE_DAEMON = ("torch", "onnx", "sklearn", "librosa", "training")


def modules(folder):
    """Files by dotted name, without the folder's own."""
    files = (path for path in sorted(folder.rglob("*.py")) if path.stem != "__init__")
    return {".".join(path.relative_to(folder).with_suffix("").parts): path for path in files}


def imported(path):
    """Yield every module name that the file imports, those under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path, package="detectd"):
    return {name.removeprefix(f"{package}.") for name in imported(path)} & set(modules(REPOSITORY / package))


def test_every_module_has_its_place():
    assert sorted(places(ORDER)) == sorted(modules(PACKAGE))


@pytest.mark.parametrize("name", modules(PACKAGE))
def test_imports_point_upwards(name):
    order = list(places(ORDER))
    below = set(order[order.index(name) :])
    assert not ours(modules(PACKAGE)[name]) & below


@pytest.mark.parametrize("path", modules(PACKAGE).values(), ids=modules(PACKAGE))
def test_the_package_names_no_training_library(path):
    assert not {name.split(".")[0] for name in imported(path)} & set(NOT_IN_THE_DAEMON)


@pytest.mark.parametrize("name", PURE)
def test_the_core_has_no_socket_clock_or_logger(name):
    shell = {"zmq", "socket", "time", "datetime", "logging", "prometheus_client", "click", "subprocess", "asyncio"}
    assert not {module.split(".")[0] for module in imported(modules(PACKAGE)[name])} & shell


@pytest.mark.parametrize("path", modules(REPOSITORY / "training").values(), ids=modules(REPOSITORY / "training"))
def test_training_uses_the_core_only(path):
    assert ours(path) <= set(places(TRAINING_MAY))


def test_training_has_no_transform_of_its_own():
    for path in modules(REPOSITORY / "training").values():
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not {name for name in names if any(word in name for word in ("fft", "stft", "mel"))}, path.name


def test_the_daemon_starts_without_training_libraries():
    code = f"import sys, detectd.service.daemon; print(*set({NOT_IN_THE_DAEMON}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == ""
