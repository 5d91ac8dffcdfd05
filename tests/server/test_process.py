"""The listening socket; what happens around it is in test_serve.py."""

import socket

import pytest

from stride.errors import StrideError
from stride.server.process import listen


def test_connections_send_small_events_at_once():
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_taken_port_is_named():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StrideError, match=f"port {port}"):
            listen("127.0.0.1", port)
