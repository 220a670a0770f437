"""ZeroMQ sockets bound and connected, with errors that say which setting to change."""

import errno
import socket as system

import zmq

from detectd.config.endpoint import split_address
from detectd.errors import ConfigError, DetectdError

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

_BACKLOG = 100


def bind(socket: Socket, endpoint: str, key: str) -> str:
    """Bind a socket; returns the address it got.

    Raises
    ------
    ConfigError
        If the address is taken or cannot be bound, naming the `key` that says it.
    """
    _allow_ipv6(socket, endpoint)
    try:
        if endpoint.startswith("tcp://"):
            _listen(socket, endpoint)
        socket.bind(endpoint)
    except (zmq.ZMQError, OSError) as error:
        reason = "is in use by another program" if error.errno == errno.EADDRINUSE else f"cannot be bound ({error})"
        raise ConfigError(f"{key}: {endpoint} {reason}; choose another address or stop what uses it") from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def connect(socket: Socket, endpoint: str, where: str, kind: type[DetectdError] = DetectdError) -> None:
    """Connect a socket; whether anybody is there shows later.

    Raises
    ------
    DetectdError
        Of the given `kind`, if that is no endpoint; `where` names the option or key that says it.
    """
    _allow_ipv6(socket, endpoint)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise kind(f"{where} {endpoint}: {error}; expected an endpoint like tcp://127.0.0.1:5555") from error


def _listen(socket: Socket, endpoint: str) -> None:
    """Have a socket take connections at a descriptor that we made.

    Left to itself ZeroMQ first asks the kernel for the names of all interfaces, by AF_NETLINK, and aborts the process
    where a hardened service may not.
    """
    host, port = split_address(endpoint.removeprefix("tcp://"), endpoint)
    family = system.AF_INET6 if ":" in host else system.AF_INET
    listening = system.create_server((host, port), family=family, backlog=_BACKLOG)
    listening.setblocking(False)  # its own signature
    socket.setsockopt(zmq.USE_FD, listening.detach())  # and closed by it


def _allow_ipv6(socket: Socket, endpoint: str) -> None:
    # Only where asked for: with it on, sockets show IPv4 addresses in an unfamiliar form.
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)
