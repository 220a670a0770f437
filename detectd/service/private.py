"""A socket's place that nobody but this user can reach."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from detectd.config.endpoint import MAX_IPC_BYTES

_NAME = "recorders.sock"


class PrivateEndpoint:
    """An ipc address in a folder of mode 0700.

    The service manager's runtime directory is taken if there is one, else the state directory, where a crash leaves
    nothing that the next run does not use again; where neither will do, a temporary one.
    """

    def __init__(self, state_dir: Path) -> None:
        self._temporary = ""
        self._path = next((path for path in self._candidates(state_dir) if _usable(path)), None) or self._made()
        self.address = f"ipc://{self._path}"

    def close(self) -> None:
        """Leave nothing behind; the socket must be closed."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    @staticmethod
    def _candidates(state_dir: Path) -> list[Path]:
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        return [*([Path(runtime) / _NAME] if runtime else []), state_dir / "run" / _NAME]

    def _made(self) -> Path:
        self._temporary = tempfile.mkdtemp(prefix="detectd-")
        return Path(self._temporary) / _NAME


def _usable(path: Path) -> bool:
    if len(os.fsencode(path)) > MAX_IPC_BYTES:
        return False
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        with tempfile.TemporaryFile(dir=path.parent):
            return True
    return False
