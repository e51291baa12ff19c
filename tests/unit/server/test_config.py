"""HOST:PORT as operators write it."""

import pytest

from coap_server.config import Endpoint, parse_endpoint
from coap_server.errors import InputError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:5684", "127.0.0.1", 5684),
        ("[::1]:5683", "::1", 5683),
        ("[::]", "::", 5683),
        ("server.example", "server.example", 5683),
        ("localhost:0", "localhost", 0),
    ],
)
def test_endpoint_is_read(text: str, host: str, port: int) -> None:
    assert parse_endpoint(text) == Endpoint(host=host, port=port)


@pytest.mark.parametrize(
    "text", ["", ":5683", "::1", "[::1", "[::1]5683", "[]:1", "a:b", "a:1:2", "a:-1", "a:70000", "a:"]
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputError, match="--coap"):
        parse_endpoint(text)
