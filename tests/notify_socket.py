"""A service manager's socket, written from sd_notify(3) alone."""

import contextlib
import socket
import threading
import time
from pathlib import Path


class ManagerSocket:
    """Collects what a service says, with the time it came."""

    def __init__(self, address):
        self.address = str(address)
        self.messages = []
        """(monotonic time, {name: value})"""
        self.on_message = lambda _message: None
        """Called with each as it comes."""
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address[1:] if self.address.startswith("@") else self.address)
        self._socket.settimeout(0.05)
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._socket.close()
        if not self.address.startswith("@"):
            Path(self.address).unlink(missing_ok=True)

    def environment(self, watchdog_s=None, pid=None):
        """The variables that a manager sets for its service."""
        variables = {"NOTIFY_SOCKET": self.address}
        if watchdog_s is not None:
            variables["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
        if pid is not None:
            variables["WATCHDOG_PID"] = str(pid)
        return variables

    def times(self, name, value="1"):
        """When a message with this assignment came."""
        return [at_s for at_s, message in list(self.messages) if message.get(name) == value]

    def statuses(self):
        return [(at_s, message["STATUS"]) for at_s, message in list(self.messages) if "STATUS" in message]

    @property
    def status(self):
        """The newest."""
        return self.statuses()[-1][1] if self.statuses() else ""

    def wait(self, condition, timeout_s=20):
        with self._arrived:
            return self._arrived.wait_for(condition, timeout_s)

    def wait_for(self, name, value="1", n=1, timeout_s=60):
        """The time of the nth message with an assignment; fails with all that came where it does not."""
        self.wait(lambda: len(self.times(name, value)) >= n, timeout_s)
        times = self.times(name, value)
        assert len(times) >= n, f"{len(times)} of {n} {name}={value}; came: {self.messages}"
        return times[n - 1]

    def _collect(self):
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                lines = self._socket.recv(65536).decode().split("\n")
                came_s, message = time.monotonic(), dict(line.split("=", 1) for line in lines)
                self.on_message(message)
                with self._arrived:
                    self.messages.append((came_s, message))
                    self._arrived.notify_all()
