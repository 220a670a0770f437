"""The metrics server, over real sockets."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress

import pytest

from detectd.errors import ConfigError
from detectd.monitor import http
from detectd.monitor.http import MetricsServer


@contextmanager
def serving(page=lambda: b"up 1\n", health=list):
    server = MetricsServer("127.0.0.1", 0, page, health)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def get(url, timeout=5.0):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.status, answer.headers, answer.read()


def refusal(url):
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(url)
    with caught.value as error:
        return error.code, error.read()


def drip(client):
    with suppress(OSError):
        while True:
            client.sendall(b"G")
            time.sleep(0.02)


def test_metrics_page():
    with serving() as server:
        assert server.address[1] != 0
        status, headers, body = get(f"{server.url}/metrics?x=1")
    assert (status, body) == (200, b"up 1\n")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_health_follows_the_reasons():
    reasons: list[str] = []
    with serving(health=lambda: reasons) as server:
        status, _, body = get(f"{server.url}/healthz")
        assert (status, json.loads(body)) == (200, {"status": "ok", "reasons": []})
        reasons.append("stream 'yard' is down")
        code, text = refusal(f"{server.url}/healthz")
        assert (code, json.loads(text)["reasons"]) == (503, ["stream 'yard' is down"])


def test_other_paths_say_what_there_is():
    with serving() as server:
        code, text = refusal(f"{server.url}/")
    assert code == 404
    assert b"/metrics" in text
    assert b"/healthz" in text


def test_head_has_no_body():
    with serving() as server, socket.create_connection(server.address) as client:
        client.sendall(b"HEAD /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.0 200")
    assert b"Content-Length: 5" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_page_that_fails_is_500_and_the_next_is_served(caplog):
    broken = [True]

    def page():
        if broken:
            broken.pop()
            raise ZeroDivisionError
        return b"fine\n"

    with serving(page) as server:
        assert refusal(f"{server.url}/metrics")[0] == 500
        assert get(f"{server.url}/metrics")[2] == b"fine\n"
    assert "ZeroDivisionError" in caplog.text


def test_port_in_use_names_the_key():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf'metrics\.bind = "127\.0\.0\.1:{port}" is in use'):
            MetricsServer("127.0.0.1", port, lambda: b"", list)


def test_stuck_clients_do_not_keep_others_out():
    with serving() as server:
        stuck = [socket.create_connection(server.address) for _ in range(3 * http.MAX_CONNECTIONS)]
        for client in stuck:
            client.sendall(b"GET /metr")
        assert get(f"{server.url}/metrics")[0] == 200
        assert sum(thread.name.startswith("Thread-") for thread in threading.enumerate()) <= http.MAX_CONNECTIONS + 1
        for client in stuck:
            client.close()


def test_a_dripping_client_is_cut(monkeypatch):
    monkeypatch.setattr(http, "MAX_CONNECTION_S", 0.3)
    with serving() as server, socket.create_connection(server.address, timeout=5) as client:
        start = time.monotonic()
        threading.Thread(target=drip, args=(client,), daemon=True).start()
        assert client.recv(100) == b""
        assert time.monotonic() - start < 2


def test_stop_frees_the_port_and_ends_open_connections():
    with serving() as server:
        address = server.address
        client = socket.create_connection(address, timeout=5)
        client.sendall(b"GET /")
        time.sleep(0.1)
    assert client.recv(100) == b""
    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    MetricsServer(*address, lambda: b"", list).stop()
    server.stop()  # twice is harmless
