"""Bad input on the device's command line: one line that says what, where and what to do; nothing half-written."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from coap_device.config import FLASH_FILE
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import generate
from tests.support.processes import ota_device


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pub"
    path.write_bytes(generate(KeyKind.P256).public.to_cose_key())
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.bin"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def run_words(tmp_path: Path, image: Path, key: Path, **changes: str | Path) -> list[str]:
    options: dict[str, str | Path] = {
        "server": "coap://127.0.0.1:9",
        "state": tmp_path / "dev",
        "model": "board-a",
        "image": image,
        "trust": key,
        **changes,
    }
    return ["run", "--once", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def refused(result: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("ota-device: error: ")
    for word in expected:
        assert re.search(word, lines[0]), lines[0]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1", "not a coap URI"),
        ("127.0.0.1:5683", "not a coap URI"),
        ("coap://", "host"),
        ("coap://host/path", "only a host and a port"),
        ("coap://host:70000", "[Pp]ort"),
        ("coaps://host", "not a coap URI"),
        ("coap://[", "Invalid"),
    ],
)
def test_a_uri_that_is_not_coap(tmp_path: Path, image: Path, key: Path, uri: str, expected: str) -> None:
    refused(ota_device(*run_words(tmp_path, image, key, server=uri)), "--server", expected)
    assert not (tmp_path / "dev").exists()


def test_a_missing_an_empty_and_a_too_large_image(tmp_path: Path, image: Path, key: Path) -> None:
    refused(ota_device(*run_words(tmp_path, tmp_path / "none.bin", key)), "none.bin", "No such file")
    empty = tmp_path / "empty.bin"
    empty.write_bytes(b"")
    refused(ota_device(*run_words(tmp_path, empty, key)), "empty.bin", "empty")
    refused(ota_device(*run_words(tmp_path, image, key), "--slot-size", "8192"), "10240 bytes", "8192", "--slot-size")
    assert not (tmp_path / "dev").exists()


def test_a_key_that_is_none_or_of_another_kind(tmp_path: Path, image: Path, key: Path) -> None:
    wrong = tmp_path / "wrong.pub"
    wrong.write_bytes(b"not a key at all")
    refused(ota_device(*run_words(tmp_path, image, wrong)), "--trust", "wrong.pub")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    public = rsa.generate_private_key(65537, 2048).public_key()
    wrong.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    refused(ota_device(*run_words(tmp_path, image, wrong)), "RSA", "P-256")
    assert not (tmp_path / "dev").exists()


def test_a_state_folder_that_cannot_be_made(tmp_path: Path, image: Path, key: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    refused(ota_device(*run_words(tmp_path, image, key, state=blocked)), "--state", "file")
    refused(ota_device(*run_words(tmp_path, image, key, state=blocked / "sub")), "--state", "sub")
    assert blocked.read_text() == "in the way"


def test_an_intel_hex_file_is_no_raw_image(tmp_path: Path, key: Path) -> None:
    text = tmp_path / "image.hex"
    text.write_text(":00000001FF\n")
    refused(ota_device(*run_words(tmp_path, text, key)), "Intel HEX", "raw binary")


def test_a_new_device_without_image_or_key(tmp_path: Path, image: Path, key: Path) -> None:
    words = ["run", "--server", "coap://127.0.0.1", "--state", str(tmp_path / "dev"), "--model", "m", "--once"]
    refused(ota_device(*words), "--image")
    refused(ota_device(*words, "--image", str(image)), "--trust")


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "foreign"])
def test_a_damaged_flash_file_is_named_and_left_alone(tmp_path: Path, image: Path, key: Path, damage: str) -> None:
    flash = _provisioned(tmp_path, image, key)
    content = flash.read_bytes()
    spoiled = {
        "truncated": content[: len(content) // 2],
        "overwritten": content[:100] + bytes(64) + content[164:],
        "foreign": b"GIF89a" + bytes(10_000),
    }[damage]
    flash.write_bytes(spoiled)
    result = ota_device(*run_words(tmp_path, image, key))
    refused(result, str(flash), "damaged", "remove .* to provision again")
    assert flash.read_bytes() == spoiled
    refused(ota_device("inspect", "--state", str(flash.parent)), "damaged")


def test_another_model_or_key_than_the_device_was_made_with(tmp_path: Path, image: Path, key: Path) -> None:
    flash = _provisioned(tmp_path, image, key)
    before = hashlib.sha256(flash.read_bytes()).digest()
    refused(ota_device(*run_words(tmp_path, image, key, model="toaster")), "board-a", "toaster")
    other = tmp_path / "other.pub"
    other.write_bytes(generate(KeyKind.ED25519).public.to_cose_key())
    refused(ota_device(*run_words(tmp_path, image, other)), "does not trust that key")
    assert hashlib.sha256(flash.read_bytes()).digest() == before


def test_links_and_cuts_that_cannot_be_read(tmp_path: Path, image: Path, key: Path) -> None:
    refused(ota_device(*run_words(tmp_path, image, key, link="delay 50")), "delay", "50")
    refused(ota_device(*run_words(tmp_path, image, key), "--power-cut-at", "40x"), "--power-cut-at")
    refused(ota_device(*run_words(tmp_path, image, key), "--id", "two words"), "--id", "not a name")
    assert not (tmp_path / "dev").exists()


def test_nothing_to_inspect(tmp_path: Path) -> None:
    refused(ota_device("inspect", "--state", str(tmp_path / "none")), "no flash file")


def _provisioned(tmp_path: Path, image: Path, key: Path) -> Path:
    """Make a device without a server: provisioning comes before the first datagram."""
    from coap_device.config import DeviceConfig, parse_server
    from coap_device.factory import open_flash

    state = tmp_path / "dev"
    config = DeviceConfig(
        server=parse_server("coap://127.0.0.1"),
        state=state,
        device_id="dev",
        model="board-a",
        image=image,
        trust=(key,),
    )
    open_flash(config).close()
    return state / FLASH_FILE
