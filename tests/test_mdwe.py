"""The daemon's core where the kernel denies what the unit denies: memory that is both written and executed, and
system calls outside of its filter. Each denial is shown to be in force by a control that tries."""

import subprocess
import sys
from pathlib import Path

import pytest
import test_units
from daemon_process import SHIPPED_CONFIG, on_free_ports, running
from plain_wire import Push, Source, Subscriber
from sounds import recording, write

CONFINED = [sys.executable, Path(__file__).parent / "confined.py"]
FILTER = ";".join(test_units.values_of("detectd.service", "SystemCallFilter"))
DENIALS = {"mdwe": "mdwe", "syscalls": FILTER}

# Prints what it was refused. Writable and executable at once; writable first and executable later; a thread that
# asks for a real-time priority, which is of @resources; another root, which is of @privileged.
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
    "syscalls": """
import os
for call in (lambda: os.sched_setaffinity(0, {0}), lambda: os.chroot("/")):
    try:
        call()
    except PermissionError:
        print("refused")
""",
}


@pytest.fixture(params=DENIALS, scope="module")
def confined(request):
    """A command that confines what follows it; skipped where this machine cannot."""
    prefix = [*CONFINED, DENIALS[request.param]]
    control = [sys.executable, "-c", CONTROLS[request.param]]
    free = subprocess.run(control, capture_output=True, text=True, check=True, timeout=60)
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
