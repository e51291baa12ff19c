"""The command: what it prints, and one line for each thing that can be wrong."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from coap_server.app import Storage
from protocol.messages import Checkin, Outcome, StatusReport, Via
from tests.unit.server.conftest import Bench, Command, Ended, listing

ROOT = Path(__file__).resolve().parents[3]


def publish(command: Command, bench: Bench, number: int, *more: object) -> Ended:
    basics = ("--data", bench.data, "--model", "plug", "--version", f"{number}.0", "--key", bench.key)
    return command("publish", bench.image(number), *basics, *more)


def assert_one_line(ended: Ended, words: str) -> None:
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith("ota-server: error: ")
    assert ended.err.count("\n") == 1
    assert words in ended.err


def test_publish_tells_what_it_made(command: Command, bench: Bench) -> None:
    first = publish(command, bench, 1)
    second = publish(command, bench, 2, "--json")

    assert first.code == 0
    assert "plug 1.0: sequence number 1, image 40,000 bytes" in first.out
    assert second.json["sequence_number"] == 2
    assert second.json["promoted"] is True
    (delta,) = second.json["deltas"]
    assert (delta["from_version"], delta["used"], delta["slot"]) == ("1.0", True, None)
    assert delta["uri"] == f"/p/{delta['digest'][:16]}"


def test_listings_in_words_and_json(command: Command, bench: Bench) -> None:
    publish(command, bench, 1, "--hold")
    assert command("assign", "dev-1", "--data", bench.data, "--model", "plug", "--version", "1.0").code == 0

    releases = command("releases", "--data", bench.data, "--json").json
    assert [(item["model"], item["version"], item["promoted"]) for item in releases] == [("plug", "1.0", False)]
    assert len(releases[0]["images"]) == 1
    assert "on hold" in command("releases", "--data", bench.data).out

    (device,) = command("devices", "--data", bench.data, "--json").json
    assert (device["device"], device["assigned_version"], device["last_report"]) == ("dev-1", "1.0", None)
    assert "never" in command("devices", "--data", bench.data).out

    assert command("promote", "--data", bench.data, "--model", "plug", "--version", "1.0").code == 0
    assert command("releases", "--data", bench.data, "--json").json[0]["promoted"] is True
    assert command("assign", "dev-1", "--data", bench.data, "--clear").code == 0
    assert command("devices", "--data", bench.data, "--json").json[0]["assigned_version"] is None


def test_last_report_of_a_device_is_listed(command: Command, bench: Bench) -> None:
    published = publish(command, bench, 1, "--json").json
    image = bytes.fromhex(published["images"][0])

    async def update() -> None:
        storage = await Storage.open(bench.data, create=False)
        now = datetime(2026, 3, 1, tzinfo=UTC)
        about: dict[str, Any] = {"device_id": "dev-1", "image_digest": image, "sequence_number": 1, "slot": 1}
        await storage.database.check_in(Checkin(**about, model="plug", trial=False, decoders=()), 1, now)
        cost: dict[str, Any] = {
            "bytes_up": 1,
            "bytes_down": 2,
            "blocks": 3,
            "blocks_resent": 4,
            "duration_s": 5,
            "power_cuts": 6,
        }
        report = StatusReport(
            **about,
            **cost,
            manifest_digest=bytes.fromhex(published["manifest_digest"]),
            outcome=Outcome.CONFIRMED,
            reason=0,
            detail="fine",
            via=Via.IMAGE,
        )
        await storage.database.add_report(report, now)
        await storage.close()

    asyncio.run(update())

    (device,) = command("devices", "--data", bench.data, "--json").json
    assert (device["version"], device["image"], device["slot"]) == ("1.0", image.hex(), "B")
    assert device["last_report"] == device["reports"][0]
    assert device["last_report"] == {
        "manifest_digest": published["manifest_digest"],
        "outcome": "confirmed",
        "reason": 0,
        "detail": "fine",
        "sequence_number": 1,
        "image": image.hex(),
        "slot": "B",
        "bytes_up": 1,
        "bytes_down": 2,
        "blocks": 3,
        "blocks_resent": 4,
        "via": "image",
        "duration_s": 5,
        "power_cuts": 6,
        "attempts": 1,
        "received_at": "2026-03-01T00:00:00+00:00",
    }
    assert "confirmed (fine)" in command("devices", "--data", bench.data).out


def test_keys_are_made_and_used(command: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTA_KEY_PASSPHRASE", "secret")
    folder = bench.folder / "new"

    made = command("keys", "generate", folder, "--json")

    assert [item["algorithm"] for item in made.json] == ["ESP256", "ED25519"]
    assert b"ENCRYPTED" in (folder / "esp256.pem").read_bytes()
    options = ("--data", bench.data, "--model", "plug", "--version", "1")
    assert command("publish", bench.image(1), *options, "--key", folder / "esp256.pem").code == 0
    monkeypatch.delenv("OTA_KEY_PASSPHRASE")
    ended = command("publish", bench.image(2), *options, "--key", folder / "esp256.pem")
    assert_one_line(ended, "needs its passphrase")


def test_manifest_is_shown_and_verified(command: Command, bench: Bench) -> None:
    command("keys", "generate", bench.folder / "mine")
    key = bench.folder / "mine" / "esp256.pem"
    options = ("--data", bench.data, "--model", "plug", "--version", "1")
    published = command("publish", bench.image(1), *options, "--key", key, "--json").json
    envelope = bench.data / "artifacts" / published["envelope_digest"]

    shown = command("manifest", "show", envelope)
    assert "sequence-number (2): 1" in shown.out
    assert command("manifest", "show", envelope, "--json").json[0]["depth"] == 0

    trusted = command("manifest", "verify", envelope, "--trust", key.with_suffix(".pub"), "--strict", "--json")
    assert (trusted.code, trusted.json["authentic"]) == (0, True)
    stranger = command("manifest", "verify", envelope, "--trust", bench.folder / "mine" / "ed25519.pub")
    assert stranger.code == 1
    assert "FAILS" in stranger.out
    assert stranger.err.count("\n") == 1


def rsa_key(bench: Bench) -> Path:
    path = bench.folder / "rsa.pem"
    path.write_bytes(
        rsa.generate_private_key(65_537, 2_048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


def test_bad_publish_is_one_line_and_changes_nothing(command: Command, bench: Bench) -> None:
    publish(command, bench, 1)
    empty, rsa_pem = bench.folder / "empty.bin", rsa_key(bench)
    empty.write_bytes(b"")
    image, before = bench.image(2), listing(bench.data)
    good = {"--data": bench.data, "--model": "plug", "--version": "2.0", "--key": bench.key}
    cases: list[tuple[Path, dict[str, object], str]] = [
        (bench.folder / "none.bin", {}, "No such file"),
        (bench.folder, {}, "Is a directory"),
        (empty, {}, "is empty"),
        (image, {"--slot-size": 1_000}, "the slot takes 1000"),
        (image, {"--key": rsa_pem}, "RSA key cannot sign"),
        (image, {"--key": bench.folder / "none.pem"}, "none.pem"),
        (image, {"--version": "1.0"}, "published already"),
        (image, {"--sequence": 1}, "not above 1"),
        (image, {"--from": "7.7"}, "no such version"),
        (image, {"--model": "a b"}, "is not a name"),
        (image, {"--vendor-domain": "other.example"}, "is of vendor"),
        (image, {"--profile": "riot-09", "--uri-base": "coap://h"}, "needs Ed25519"),
        (image, {"--profile": "riot-09", "--key": bench.riot_key, "--uri-base": "http://h"}, "coap://HOST"),
        (image, {"--passphrase-file": empty}, "first line is empty"),
    ]
    for path, changes, words in cases:
        options = [item for pair in (good | changes).items() for item in pair]
        assert_one_line(command("publish", path, *options), words)
        assert listing(bench.data) == before, words


def test_bad_file_makes_no_data_folder(command: Command, bench: Bench) -> None:
    bench.image(1).write_bytes(b"")

    assert_one_line(publish(command, bench, 1), "is empty")

    assert not bench.data.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("releases",), "holds no server.db"),
        (("devices",), "holds no server.db"),
        (("promote", "--model", "plug", "--version", "1"), "holds no server.db"),
        (("assign", "dev-1", "--version", "1"), "holds no server.db"),
        (("assign", "dev-1"), "either --version V or --clear"),
        (("serve", "--coap", "nonsense:x"), "expected HOST:PORT"),
        (("serve", "--coap", "no-such-host.invalid:1"), "cannot resolve"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert_one_line(command(*arguments, "--data", tmp_path / "none"), words)


def test_unknown_model_and_version_are_named(command: Command, bench: Bench) -> None:
    publish(command, bench, 1)

    assert_one_line(command("releases", "--data", bench.data, "--model", "lamp"), "model lamp is not known")
    ended = command("promote", "--data", bench.data, "--model", "plug", "--version", "9")
    assert_one_line(ended, "has no version 9; it has 1.0")


@pytest.mark.parametrize(
    "arguments",
    [("serve",), ("releases",), ("publish", "--model", "plug", "--version", "1.0")],
    ids=lambda item: item[0],
)
def test_damaged_database_is_one_line_and_left_alone(
    command: Command, bench: Bench, arguments: tuple[str, ...]
) -> None:
    bench.data.mkdir()
    (bench.data / "server.db").write_bytes(b"not a database at all " * 100)
    before = listing(bench.data)
    more = (bench.image(1), "--key", bench.key) if arguments[0] == "publish" else ()

    assert_one_line(command(*arguments, *more, "--data", bench.data), "is damaged or no database")

    assert listing(bench.data) == before


def test_database_of_another_program_is_refused(command: Command, bench: Bench) -> None:
    bench.data.mkdir()
    connection = sqlite3.connect(bench.data / "server.db")
    connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()

    assert_one_line(command("devices", "--data", bench.data), "belongs to another program")


def test_manifest_that_is_none_is_one_line(command: Command, bench: Bench) -> None:
    command("keys", "generate", bench.folder / "mine")
    trust = ("--trust", bench.folder / "mine" / "esp256.pub")
    publish(command, bench, 1)
    digest = command("releases", "--data", bench.data, "--json").json[0]["envelope_digest"]
    whole = (bench.data / "artifacts" / digest).read_bytes()
    file = bench.folder / "x.suit"

    for content in (b"", b"\x00", whole[:100], whole[:-1]):
        file.write_bytes(content)
        assert_one_line(command("manifest", "show", file), "x.suit")
        assert command("manifest", "verify", file, *trust).code == 1
    file.write_bytes(whole)
    assert_one_line(command("manifest", "verify", file, "--trust", file), "trust anchor")


def test_wrong_usage_is_2(command: Command) -> None:
    assert command("publish").code == 2
    assert command("nonsense").code == 2
    assert command("releases", "--data").code == 2


@pytest.mark.parametrize(
    "words",
    [
        *([name] for name in ("publish", "serve", "promote", "assign", "releases", "devices")),
        ["keys", "generate"],
        ["manifest", "show"],
        ["manifest", "verify"],
    ],
    ids=" ".join,
)
def test_help_has_an_example(command: Command, words: list[str]) -> None:
    ended = command(*words, "--help")

    assert ended.code == 0
    assert f"Example: ota-server {' '.join(words)}" in " ".join(ended.out.split())


Process = subprocess.Popen[str]


@pytest.fixture
def serving(bench: Bench) -> Iterator[tuple[Process, str]]:
    """A server process on a free port, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coap_server", "serve", "--data", bench.data, "--coap", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "error::ResourceWarning"},
    )
    with process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready"
        yield process, ready["coap"]
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_process_ends_cleanly_on_a_signal(
    serving: tuple[Process, str], bench: Bench, number: signal.Signals
) -> None:
    process, _ = serving

    process.send_signal(number)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 0
    assert err == "" or all(" INFO " in line for line in err.splitlines())
    assert sorted(path.name for path in bench.data.iterdir()) == ["artifacts", "server.db"]


def test_second_server_on_the_port_is_refused(serving: tuple[Process, str], command: Command, bench: Bench) -> None:
    _, uri = serving
    address = uri.removeprefix("coap://")

    assert_one_line(command("serve", "--data", bench.data, "--coap", address), "is in use: stop the other server")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", int(address.rpartition(":")[2])))
        probe.send(b"\x40\x00\x00\x01")  # a ping: the first server still answers, with RST
        probe.settimeout(10)
        assert probe.recv(16) == b"\x70\x00\x00\x01"


def test_publishing_while_the_server_runs(serving: tuple[Process, str], command: Command, bench: Bench) -> None:
    assert publish(command, bench, 1).code == 0
    assert publish(command, bench, 2).code == 0
    assert len(command("releases", "--data", bench.data, "--json").json) == 2
