"""The unit files, judged by systemd's own eyes."""

import re
import shutil
import subprocess

import pytest
from daemon_process import REPOSITORY

FOLDER = REPOSITORY / "systemd"
UNITS = ("detectd.service", "detectd@.service", "detectd-capture@.service")
SOUND = FOLDER / "detectd.service.d" / "sound.conf"
PROGRAM = "/opt/detectd/venv/bin/detectd"
# Highest exposure that is promised, by unit as it is installed, without and with the drop-in for sound.
EXPOSURES = {
    ("detectd.service", False): 0.9,
    ("detectd@yard.service", False): 0.9,
    ("detectd.service", True): 1.2,
    ("detectd@yard.service", True): 1.2,
    ("detectd-capture@yard.service", False): 1.2,
}
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze (Debian package systemd) is not installed"
)


def values_of(unit, key):
    """Values of a key in a unit of ours, in order."""
    return re.findall(rf"^{key}=(.*)$", (FOLDER / unit).read_text(), re.MULTILINE)


def hardening(unit):
    """The lines of a unit's common part."""
    return (FOLDER / unit).read_text().split("# The hardening below")[1].split("PrivateDevices=")[0].splitlines()[1:]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A machine's root with our units installed and the programs that they name."""
    path = tmp_path_factory.mktemp("root")
    units = path / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(FOLDER / unit, units)
        if "@" in unit:
            shutil.copy(FOLDER / unit, units / unit.replace("@", "@yard"))
    for name in ("sysinit", "basic", "shutdown", "multi-user", "network", "sound"):
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    for program in (PROGRAM, "/bin/kill"):
        there = path / program.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text("#!/bin/sh\n")
        there.chmod(0o755)
    return path


def analyze(verb, root, *arguments):
    command = ["systemd-analyze", verb, f"--root={root}", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@needs_systemd
def test_systemd_finds_nothing_wrong(root):
    done = analyze("verify", root, *(unit.replace("@", "@yard") for unit in UNITS))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize(("unit", "sound"), EXPOSURES, ids=str)
def test_exposure_is_no_more_than_promised(root, unit, sound):
    folder = root / f"etc/systemd/system/{re.sub('@.*[.]', '@.', unit)}.d"
    if sound:
        folder.mkdir()
        shutil.copy(SOUND, folder)
    try:
        done = analyze("security", root, "--offline=true", unit)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)[1])
    assert exposure <= EXPOSURES[unit, sound], done.stdout
    assert ("char-alsa" in done.stdout) == (sound or "capture" in unit)


@pytest.mark.parametrize("unit", UNITS)
def test_what_was_promised_by_name_is_there(unit):
    # The exposure's one decimal would not show that it is missing.
    assert values_of(unit, "MemoryDenyWriteExecute") == ["yes"]


@pytest.mark.parametrize("unit", UNITS[1:])
def test_the_hardening_is_the_same_everywhere(unit):
    assert len(hardening(unit)) > 30
    assert hardening(unit) == hardening(UNITS[0])


def test_the_drop_in_says_of_sound_what_the_capture_unit_says():
    capture = (FOLDER / UNITS[2]).read_text()
    for line in SOUND.read_text().splitlines():
        if re.match(r"(PrivateDevices|DeviceAllow|SupplementaryGroups)=", line):
            assert f"\n{line}\n" in capture


@pytest.mark.parametrize("unit", UNITS)
def test_never_given_up_for_what_passes_and_never_repeated_for_what_does_not(unit):
    assert values_of(unit, "Restart") == ["always"]
    assert values_of(unit, "StartLimitIntervalSec") == ["0"], "0 = no limit to how often"
    # The exit codes of a bad configuration and a bad bundle, errors.py.
    assert values_of(unit, "RestartPreventExitStatus") == ["2 3"]


@pytest.mark.parametrize("unit", UNITS[:2])
def test_the_manager_is_told_and_watches(unit):
    assert values_of(unit, "Type") == ["notify"]
    assert values_of(unit, "ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert 5 <= int(values_of(unit, "WatchdogSec")[0]) <= 30


def test_no_two_daemons_share_a_folder():
    for key in ("StateDirectory", "RuntimeDirectory"):
        assert values_of(UNITS[0], key) == ["detectd"]
        assert values_of(UNITS[1], key) == ["detectd-%i"], "below detectd/ it would be within another user's folder"


@pytest.mark.parametrize("unit", UNITS)
def test_programs_and_folders_are_those_that_the_install_text_names(unit):
    text = (FOLDER / unit).read_text()
    (start,) = values_of(unit, "ExecStart")
    program, command, *_ = start.split()
    assert program == PROGRAM
    assert command == ("capture" if "capture" in unit else "run")
    assert "python3 -m venv /opt/detectd/venv && /opt/detectd/venv/bin/pip install" in text
    readme = (REPOSITORY / "README.md").read_text()
    known = set(
        re.findall(r"/(?:opt|etc|var/lib|run)/detectd[\w./@%-]*", "".join((FOLDER / u).read_text() for u in UNITS))
    )
    for path in re.findall(r"/(?:opt|var/lib|run)/detectd[\w./-]*\w", readme):
        assert any(path == name or name.startswith(f"{path}/") for name in known), f"README: {path}"
