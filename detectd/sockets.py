"""ZeroMQ sockets bound and connected, with errors that say which setting to change."""

import zmq

from detectd.errors import ConfigError, DetectdError

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]


def bind(socket: Socket, endpoint: str, key: str) -> str:
    """Bind a socket; returns the address it got.

    Raises
    ------
    ConfigError
        If the address is taken or cannot be bound, naming the `key` that says it.
    """
    _allow_ipv6(socket, endpoint)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        reason = "is in use by another program" if error.errno == zmq.EADDRINUSE else f"cannot be bound ({error})"
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


def _allow_ipv6(socket: Socket, endpoint: str) -> None:
    # Only where asked for: with it on, sockets show IPv4 addresses in an unfamiliar form.
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)
