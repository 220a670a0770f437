"""The daemon's core where the kernel denies what the unit denies: memory that is both written and executed, system
calls that its filter refuses, sockets of other families. Each denial is shown in force by a control that tries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_units
from daemon_process import SHIPPED_CONFIG, config, on_free_ports, running, until
from plain_wire import Push, Source, Subscriber
from sound_server import PipeMicrophone, SoundServer, noise_of, require_sound_server
from sounds import recording, write

CONFINED = [sys.executable, Path(__file__).parent / "confined.py"]
CALLS = ";".join(test_units.values_of("detectd.service", "SystemCallFilter"))
(FAMILIES,) = test_units.values_of("detectd.service", "RestrictAddressFamilies")
DENIALS = {"mdwe": "mdwe", "calls": f"calls={CALLS}", "families": f"families={FAMILIES}"}

# Each prints what it was refused. Memory writable and executable at once, and writable first and executable later;
# another core, which is of @resources, and another root, which is of @privileged; the kernel's own socket, and packets.
CONTROLS = {
    "mdwe": """
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    print("refused")
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
if libc.mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_EXEC):
    print("refused")
""",
    "calls": """
import os
for call in (lambda: os.sched_setaffinity(0, {0}), lambda: os.chroot("/")):
    try:
        call()
    except PermissionError:
        print("refused")
""",
    "families": """
import socket
for family in (socket.AF_NETLINK, socket.AF_PACKET):
    try:
        socket.socket(family, socket.SOCK_RAW).close()
    except OSError as error:
        print("refused")
""",
}


@pytest.fixture(params=DENIALS, scope="module")
def confined(request):
    """A command that confines what follows it; skipped where this machine cannot."""
    prefix = [*CONFINED, DENIALS[request.param]]
    control = [sys.executable, "-c", CONTROLS[request.param]]
    free = subprocess.run(control, capture_output=True, text=True, check=True, timeout=60)
    if os.geteuid() == 0:  # others may do neither
        assert free.stdout == "", "the control is refused nothing outside"
    done = subprocess.run([*prefix, *control], capture_output=True, text=True, check=False, timeout=60)
    if done.stderr.startswith("cannot confine"):
        pytest.skip(done.stderr.strip())
    assert done.stdout.split() == ["refused", "refused"], done.stderr
    return prefix


def test_the_shipped_daemon_hears_its_demo_there(confined, tmp_path):
    shipped = SHIPPED_CONFIG.read_text()
    text = on_free_ports().replace("off_s = 10", "off_s = 2")
    assert "off_s = 10" in shipped
    loop = write(tmp_path / "loop.wav", recording(1, 2, 1, seed=4))
    text += f'\n[[stream]]\nid = "looped"\nsource = "file"\npath = "{loop}"\nloop = true\n'
    with running(tmp_path, text, prefix=confined) as daemon, Subscriber(daemon.events) as events:
        with Push(daemon.ingest) as push:
            push.send(*Source("far").blocks(recording(1, 2, 4)))
        for stream in ("far", "demo", "looped"):
            events.wait_for(stream, "start")
        events.wait_for("far", "end")
        page = daemon.scrape()
        assert page.audio("samples_total", "far") > 0
        assert not page.unbalanced()


def test_a_microphone_is_recorded_there(confined, tmp_path):
    # The recorder, a child with PortAudio in it, is denied the same.
    require_sound_server()
    microphone = PipeMicrophone("yard", noise_of(1))
    table = '[[stream]]\nid = "yard"\nsource = "device"\ndevice = "yard"\nrate_hz = 48000\n'
    with (
        SoundServer(microphone) as server,
        running(tmp_path, config(table), prefix=confined, variables=server.environment) as daemon,
    ):
        assert until(lambda: daemon.scrape().audio("samples_total", "yard") >= 48_000), daemon.stderr
        assert daemon.scrape().value("detectd_fault", part="stream") == 0
