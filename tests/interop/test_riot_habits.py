"""What RIOT's ``suit_update`` does on the air, byte for byte, against a server process and a RIOT release.

The client here is written after the habits of the real one: an empty token, message ID + 1 for each block, Uri-Path and
then Block2 in the first request already, a larger block than asked for refused, a smaller one adopted.
"""

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from protocol import cbor
from protocol.coap import message
from protocol.coap.block import Block, decode_block
from protocol.coap.message import Message
from protocol.coap.numbers import Code, Option, Type
from tests.support.firmware import make_firmware
from tests.support.processes import MODEL, Shop, open_shop, serving

pytestmark = pytest.mark.interop

IMAGE = make_firmware(seed=3, size=20_000)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = open_shop(tmp_path_factory.mktemp("riot"))
    path = made.folder / "image.bin"
    path.write_bytes(IMAGE)
    made.publish(path, "1", "--profile", "riot-09", "--uri-base", "coap://[fd00::1]", key="ed25519.pem")
    return made


@pytest.fixture(scope="module")
def uri(shop: Shop) -> Iterator[str]:
    with serving(shop, "[::1]") as found:
        yield found


def riot_get(uri: str, path: str, szx: int) -> bytes:
    """Fetch a path as RIOT does."""
    parts = urlsplit(uri)
    received = bytearray()
    num, message_id = 0, 0x1234
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((parts.hostname, parts.port))
        while True:
            options = (*message.path_options(path), (Option.BLOCK2, Block(num=num, more=False, szx=szx).encode()))
            client.send(message.encode(Message(type=Type.CON, code=Code.GET, message_id=message_id, options=options)))
            answer = message.decode(client.recv(2048))
            assert (answer.type, answer.message_id, answer.token) == (Type.ACK, message_id, b"")
            assert answer.code == Code.CONTENT, answer.payload
            block = decode_block(answer.option(Option.BLOCK2) or b"")
            assert (block.num, block.szx) == (num, szx)
            received += answer.payload
            if not block.more:
                return bytes(received)
            num, message_id = num + 1, message_id + 1


@pytest.mark.parametrize("szx", [2, 6])
def test_a_riot_device_gets_manifest_and_payload(uri: str, szx: int) -> None:
    envelope = cbor.decode(riot_get(uri, f"/m/{MODEL}", szx))
    manifest = cbor.decode(envelope[3])
    install = cbor.decode(manifest[9])
    absolute = install[1][21]
    assert absolute.startswith("coap://[fd00::1]/p/")
    payload = riot_get(uri, urlsplit(absolute).path, szx)
    assert payload == IMAGE
    common = cbor.decode(cbor.decode(manifest[3])[4])
    assert cbor.decode(common[1][3]) == (2, hashlib.sha256(payload).digest())


def test_the_envelope_is_small_enough_for_the_device(uri: str) -> None:
    assert len(riot_get(uri, f"/m/{MODEL}", 2)) <= 640


def test_the_published_file_is_the_served_one(shop: Shop, uri: str) -> None:
    served = riot_get(uri, f"/m/{MODEL}", 2)
    stored = [path.read_bytes() for path in (Path(shop.data) / "artifacts").rglob("*") if path.is_file()]
    assert served in stored
