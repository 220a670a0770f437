"""Addresses as the configuration writes them: made canonical, and kept off the network.

This version has neither keys nor a client list for its sockets, so it binds where only this machine can reach it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_IPC_BYTES = 107  # sun_path of Linux holds 108, the last one NUL
ACCEPTED_BIND = 'a loopback address such as "tcp://127.0.0.1:5555", "ipc://PATH" or "inproc://NAME"'
ACCEPTED_CONNECT = '"tcp://HOST:PORT", "ipc://PATH" or "inproc://NAME"'
NO_CURVE = "this version has no CURVE keys, so it binds to loopback, ipc:// and inproc:// only"


def local_endpoint(endpoint: str, folder: Path) -> str:
    """Return `endpoint` as ZeroMQ binds it: `localhost` as a number, ipc paths absolute (relative to `folder`).

    Raises
    ------
    ValueError
        What is accepted instead.
    """
    transport, _, rest = endpoint.partition("://")
    if transport != "tcp":
        return _same_machine(transport, rest, folder, ACCEPTED_BIND)
    host, port = split_address(rest, ACCEPTED_BIND)
    return f"tcp://{join_address(loopback(host, ACCEPTED_BIND), port)}"


def remote_endpoint(endpoint: str, folder: Path) -> str:
    """Return `endpoint` as ZeroMQ connects to it; any host will do, since nothing is opened here.

    Raises
    ------
    ValueError
        What is accepted instead.
    """
    transport, _, rest = endpoint.partition("://")
    if transport != "tcp":
        return _same_machine(transport, rest, folder, ACCEPTED_CONNECT)
    host, port = split_address(rest, ACCEPTED_CONNECT)
    if port == 0 or not re.fullmatch(r"[A-Za-z0-9.:%_-]+", host):
        raise ValueError(ACCEPTED_CONNECT)
    return f"tcp://{join_address(host, port)}"


def split_address(text: str, accepted: str) -> tuple[str, int]:
    """Split `HOST:PORT` or `[HOST]:PORT`; port `*`, as ZeroMQ spells "any free one", is 0."""
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\*|[0-9]{1,5})", text)
    if not match:
        raise ValueError(accepted)
    port = 0 if match[3] == "*" else int(match[3])
    if port > 65535:
        raise ValueError(accepted)
    return match[1] or match[2], port


def join_address(host: str, port: int) -> str:
    """
    >>> join_address("::1", 5555), join_address("127.0.0.1", 0)
    ('[::1]:5555', '127.0.0.1:0')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def loopback(host: str, accepted: str) -> str:
    """Return `host` as a number if it is this machine's loopback.

    Raises
    ------
    ValueError
        With `accepted` and the reason. A wildcard, a name or another interface can be reached from outside.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ValueError(f"{accepted} ({NO_CURVE})") from None
    if not address.is_loopback:
        raise ValueError(f"{accepted} ({NO_CURVE})")
    return str(address)


def _same_machine(transport: str, rest: str, folder: Path, accepted: str) -> str:
    if transport == "inproc" and rest:
        return f"inproc://{rest}"
    if transport != "ipc" or not rest:
        raise ValueError(accepted)
    path = rest if rest.startswith("@") else str(folder / rest)
    if len(path.encode()) > MAX_IPC_BYTES:
        raise ValueError(f"an ipc path of at most {MAX_IPC_BYTES} bytes once made absolute")
    return f"ipc://{path}"
