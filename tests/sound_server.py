"""A sound card without hardware: a private PulseAudio server with microphones that can be unplugged, stalled and late.

PortAudio sees each microphone as an ALSA device of its name. A `PipeMicrophone` is driven by a thread of ours, which
sets its clock and knows to the sample what it could not hand over; a `MonitorMicrophone` hears what `paplay` plays.
"""

import collections
import ctypes.util
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

START_S = 20
CONTROL_S = 20
BYTES_PER_SAMPLE = 2
PAGE = 4096
CHANNEL_MAPS = {
    1: "mono",
    2: "front-left,front-right",
    4: "front-left,front-right,rear-left,rear-right",
    8: "front-left,front-right,rear-left,rear-right,front-center,lfe,side-left,side-right",
}
ALSA_PLUGIN = "lib*/**/alsa-lib/libasound_module_pcm_pulse.so"
USR = Path("/usr")


def missing():
    """What a virtual sound card needs and this machine has not, or an empty text."""
    lacks = [name for name in ("pulseaudio", "pactl", "paplay") if shutil.which(name) is None]
    lacks += [] if ctypes.util.find_library("portaudio") else ["libportaudio2"]
    lacks += [] if any(USR.glob(ALSA_PLUGIN)) else ["libasound2-plugins"]
    return ", ".join(lacks)


def require_sound_server():
    """Skip where there can be no virtual sound card; fail if DETECTD_TEST_SOUND says that there must be one."""
    if not (lacks := missing()):
        return
    reason = f"virtual microphones need {lacks}"
    if os.environ.get("DETECTD_TEST_SOUND") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


class SoundServer:
    """A private PulseAudio server, up when `with` begins, gone with all it made when it ends.

    Parameters
    ----------
    microphones : PipeMicrophone or MonitorMicrophone, plugged from the start unless their `plugged` is false
    modules : str, what else the server loads, such as "module-rescue-streams"
    """

    def __init__(self, *microphones, modules=()):
        # A socket's path has at most 107 bytes: no place under pytest's long folder names.
        self._folder = Path(tempfile.mkdtemp(prefix="sound-"))
        self.environment = self._make_home()
        self._modules = tuple(modules)
        self._microphones = {microphone.name: microphone for microphone in microphones}
        self._process = None
        for microphone in microphones:
            microphone.belong_to(self)

    def __enter__(self):
        try:
            self.start()
            for microphone in self._microphones.values():
                microphone.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for microphone in self._microphones.values():
            microphone.end()
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self):
        """Start the server with every microphone that is plugged; returns once it answers."""
        for microphone in self._microphones.values():
            microphone.fifo.unlink(missing_ok=True)
        plugged = [m for m in self._microphones.values() if m.plugged]
        lines = ["module-native-protocol-unix auth-anonymous=1", *self._modules, *(m.module for m in plugged)]
        script = self._folder / "start.pa"
        script.write_text("".join(f"load-module {line}\n" for line in lines))
        command = ["pulseaudio", "-n", "-F", script, "--daemonize=no", "--exit-idle-time=-1"]
        command += ["--realtime=no", "--high-priority=no", "--log-target=stderr", "--log-level=error"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stderr=log)
        end_s = time.monotonic() + START_S
        while self.pactl("info", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"no sound server: {(self._folder / 'server.log').read_text()}")
            time.sleep(0.05)

    def kill(self):
        """End the server as kill -9 does."""
        self._process.kill()
        self._process.wait()

    def stop(self):
        """Let the server stand still as it is."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self._process.send_signal(signal.SIGCONT)

    def load(self, module):
        """Load a module; returns its index."""
        return int(self.pactl("load-module", *module.split(" ")).stdout)

    def unplug(self, name):
        """Take a microphone away from the running server."""
        microphone = self._microphones[name]
        (index,) = (line.split("\t")[0] for line in self.listed("modules") if microphone.own_part in line)
        microphone.plugged = False
        self.pactl("unload-module", index)

    def plug(self, name):
        """Bring a microphone back under its name."""
        microphone = self._microphones[name]
        microphone.plugged = True
        self.load(microphone.module)

    def hide(self, name, hidden=True):
        """Leave a microphone out of what programs that look anew are offered, or offer it again."""
        self._microphones[name].hidden = hidden
        self.write_asoundrc()

    def listed(self, kind):
        """Lines of `pactl list short KIND`."""
        return self.pactl("list", "short", kind).stdout.splitlines()

    def recordings_of(self, name):
        """(index, process id) of everything that records a microphone now."""
        sources = {line.split("\t")[1]: int(line.split("\t")[0]) for line in self.listed("sources")}
        outputs = json.loads(self.pactl("--format=json", "list", "source-outputs").stdout)
        return [
            (output["index"], int(output["properties"]["application.process.id"]))
            for output in outputs
            if output["source"] == sources.get(self._microphones[name].source)
        ]

    def move(self, recorder, to):
        """Let a process that records hear another microphone, as a hand on the mixer does."""
        (index,) = (index for name in self._microphones for index, pid in self.recordings_of(name) if pid == recorder)
        self.pactl("move-source-output", str(index), self._microphones[to].source)

    def path(self, name):
        return self._folder / name

    def write_asoundrc(self):
        """Tell ALSA, and by it PortAudio, of the microphones."""
        entries = [
            f'pcm.{m.name} {{ type pulse device "{m.source}" hint {{ show on description "{m.name}" }} }}\n'
            for m in self._microphones.values()
            if not m.hidden
        ]
        new = self._folder / "asoundrc"
        new.write_text("".join(entries))
        new.replace(self._folder / "home" / ".asoundrc")

    def _make_home(self):
        home, runtime = self._folder / "home", self._folder / "run"
        (home / ".config" / "pulse").mkdir(parents=True)
        runtime.mkdir(mode=stat.S_IRWXU)
        # A dead server stays dead until the test starts it.
        (home / ".config" / "pulse" / "client.conf").write_text("autospawn = no\n")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PULSE_", "XDG_", "DBUS_"))}
        return {**kept, "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}

    def pactl(self, *arguments, check=True):
        command = ["pactl", *arguments]
        return subprocess.run(
            command, env=self.environment, check=check, capture_output=True, text=True, timeout=CONTROL_S
        )


class Microphone:
    """What both kinds share: a name, a rate, channels, and sound as a function of the position.

    Parameters
    ----------
    sound : (first_position, n) -> (n, channels) int16
    """

    def __init__(self, name, sound, rate_hz=48_000, channels=1, *, plugged=True, hidden=False):
        self.name, self.sound, self.rate_hz, self.channels = name, sound, rate_hz, channels
        self.plugged, self.hidden = plugged, hidden
        self.server = None

    def belong_to(self, server):
        self.server = server
        server.write_asoundrc()

    @property
    def form(self):
        return f"format=s16le rate={self.rate_hz} channels={self.channels} channel_map={self.channel_map}"

    @property
    def channel_map(self):
        """The order that ALSA takes channels to have: the server would bring any other into it."""
        return CHANNEL_MAPS[self.channels]

    @property
    def fifo(self):
        return self.server.path(f"{self.name}.fifo")

    def unplug(self):
        self.server.unplug(self.name)

    def plug(self):
        self.server.plug(self.name)


class PipeMicrophone(Microphone):
    """A FIFO as a microphone. It never waits: what the server does not take in time is lost, as with a real one.

    Attributes
    ----------
    ppm : float, how fast its clock goes against ours, parts per million
    silent : bool, while set nothing is handed over: its clock goes on, the samples are lost
    position : int, of the next sample
    lost : deque of (position, n) that nobody took
    """

    BLOCK_S = 0.01
    HELD_S = 0.1

    def __init__(self, *args, ppm=0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.ppm, self.silent = ppm, False
        self.position, self.lost = 0, collections.deque()
        # A page, as much as the server reads at once, is whole frames with any of the channel maps.
        self._frame_bytes = BYTES_PER_SAMPLE * self.channels
        self._skip = 0
        self._fifo = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write)

    @property
    def source(self):
        return self.name

    @property
    def module(self):
        return f"module-pipe-source {self.own_part} file={self.fifo} {self.form}"

    @property
    def own_part(self):
        return f"source_name={self.name}"

    def skip(self, n):
        """Lose `n` samples at once, without time passing."""
        self._skip += n

    def utc_ns(self, position):
        """When a sample was due, where none was skipped."""
        return self._began_utc_ns + position * 1e9 / (self.rate_hz * (1 + self.ppm * 1e-6))

    def begin(self):
        self._began_utc_ns = time.time_ns()
        self._thread.start()

    def end(self):
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _write(self):
        due, last_s = 0.0, time.monotonic()
        while not self._stopped.wait(self.BLOCK_S):
            now_s = time.monotonic()
            due += (now_s - last_s) * self.rate_hz * (1 + self.ppm * 1e-6)
            last_s = now_s
            n_skipped, self._skip = self._skip, 0
            if n_skipped:
                self._lose(self.position, n_skipped)
                self.position += n_skipped
            n, due = int(due), due % 1
            while n:
                # A write of a page or less is taken whole or not at all.
                n_block = min(n, PAGE // self._frame_bytes)
                self._hand_over(n_block)
                n -= n_block
        self._close()

    def _hand_over(self, n):
        if self.silent or not self._took(self.sound(self.position, n).astype("<i2").tobytes()):
            self._lose(self.position, n)
        self.position += n

    def _lose(self, position, n):
        self.lost.append((position, n))

    def _took(self, data):
        try:
            if self._fifo is None:
                self._open()
            try:
                os.write(self._fifo, data)
            except BlockingIOError:
                # Nobody records, or the server stands still: as in a sound card, the new takes the place of the old.
                self._drop_old()
                os.write(self._fifo, data)
        except OSError:
            self._close()  # unplugged, or no server
            return False
        return True

    def _open(self):
        self._fifo = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        held = int(self.HELD_S * self.rate_hz * self._frame_bytes)
        fcntl.fcntl(self._fifo, fcntl.F_SETPIPE_SZ, max(PAGE, held))

    def _drop_old(self):
        # Open for this moment only: a reader of our own would hide that the server's has gone.
        with os.fdopen(os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as drain:
            n_old = len(drain.read(1 << 20) or b"") // self._frame_bytes
        self._lose(self.position - n_old, n_old)

    def _close(self):
        if self._fifo is not None:
            os.close(self._fifo)
            self._fifo = None


class MonitorMicrophone(Microphone):
    """What is played into a null sink, heard at its monitor: the server sets the clock. At first nothing plays."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._players = []

    @property
    def source(self):
        return f"{self.name}.monitor"

    @property
    def module(self):
        return f"module-null-sink {self.own_part} {self.form}"

    @property
    def own_part(self):
        return f"sink_name={self.name}"

    def play(self, n, first_position=0):
        """Play `n` frames; returns at once, with the player."""
        path = self.server.path(f"{self.name}-{len(self._players)}.raw")
        path.write_bytes(self.sound(first_position, n).astype("<i2").tobytes())
        command = ["paplay", "--raw", "--format=s16le", f"--rate={self.rate_hz}", f"--channels={self.channels}"]
        command += [f"--channel-map={self.channel_map}", f"--device={self.name}", path]
        self._players.append(subprocess.Popen(command, env=self.server.environment, stderr=subprocess.DEVNULL))
        return self._players[-1]

    def begin(self):
        pass

    def end(self):
        for player in self._players:
            player.kill()
            player.wait()


def noise_of(seed, channels=1):
    """A sound for those who do not ask what it holds: quiet, white, the same at every position whenever asked."""

    def sound(first_position, n):
        keys = np.arange(first_position * channels, (first_position + n) * channels, dtype=np.uint64)
        keys = (keys + np.uint64(seed << 40)) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
        keys *= np.uint64(0xBF58476D1CE4E5B9)
        return (keys >> np.uint64(52)).astype(np.int16).reshape(n, channels) - np.int16(2048)

    return sound
