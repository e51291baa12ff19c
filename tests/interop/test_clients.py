"""Other people's clients against a server process: aiocoap-client and libcoap's coap-client."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiocoap
import pytest

from tests.support.expect import expect_tool
from tests.support.processes import MODEL, Shop, checked, environment, open_shop, run, serving

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def shop(firmware_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = open_shop(tmp_path_factory.mktemp("interop"))
    made.publish(firmware_dir / "microbit-1.2.4.bin", "1.2.4")
    return made


@pytest.fixture(scope="module")
def image(firmware_dir: Path) -> bytes:
    return (firmware_dir / "microbit-1.2.4.bin").read_bytes()


@pytest.fixture(scope="module")
def uri(shop: Shop) -> Iterator[str]:
    with serving(shop) as found:
        yield found


def payload_path(image: bytes) -> str:
    return f"/p/{hashlib.sha256(image).hexdigest()[:16]}"


def aiocoap_client(uri: str, target: Path) -> bytes:
    """Run aiocoap-client as a user does, its output into a file."""
    tool = Path(sys.executable).with_name("aiocoap-client")
    command = [str(tool if tool.exists() else expect_tool("aiocoap-client")), "-q", uri]
    with target.open("wb") as output:
        subprocess.run(command, stdout=output, timeout=60, check=True, env=environment())
    return target.read_bytes()


def test_aiocoap_client_lists_the_resources(uri: str, image: bytes, tmp_path: Path) -> None:
    listing = aiocoap_client(f"{uri}/.well-known/core", tmp_path / "listing").decode()
    assert f"/m/{MODEL}" in listing
    assert payload_path(image) in listing
    assert "rt=" in listing
    assert "ct=" in listing
    assert f"sz={len(image)}" in listing.replace('"', "")


def test_aiocoap_client_fetches_a_whole_payload(uri: str, image: bytes, tmp_path: Path) -> None:
    fetched = aiocoap_client(uri + payload_path(image), tmp_path / "payload")
    assert hashlib.sha256(fetched).digest() == hashlib.sha256(image).digest()


@pytest.mark.parametrize("block_size", [1024, 64])
def test_libcoap_client_fetches_a_whole_payload(uri: str, image: bytes, tmp_path: Path, block_size: int) -> None:
    target = tmp_path / "payload"
    tool = expect_tool("coap-client-notls")
    checked(run(tool, "-B", "60", "-b", str(block_size), "-o", str(target), uri + payload_path(image)))
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(image).digest()


@pytest.mark.parametrize("num", [100, 0, 226, 7])
async def test_any_block_first_answers_2_05(uri: str, image: bytes, num: int) -> None:
    context = await aiocoap.Context.create_client_context()
    try:
        request = aiocoap.Message(code=aiocoap.GET, uri=uri + payload_path(image))
        request.opt.block2 = (num, False, 6)
        response = await asyncio.wait_for(context.request(request, handle_blockwise=False).response, 20)
    finally:
        await context.shutdown()
    assert response.code is aiocoap.CONTENT
    assert response.payload == image[num * 1024 : (num + 1) * 1024]
    assert response.opt.block2.block_number == num
    assert response.opt.size2 == len(image)
    assert response.opt.etag == hashlib.sha256(image).digest()[:8]


def test_two_servers_do_not_share_a_port(uri: str, shop: Shop) -> None:
    address = uri.removeprefix("coap://")
    second = run(sys.executable, "-m", "coap_server", "serve", "--data", shop.data, "--coap", address)
    assert second.returncode != 0
    assert "in use" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
