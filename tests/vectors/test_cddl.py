"""What we put on the wire is what ``docs/cddl`` says, and what ``docs/cddl`` refuses we refuse as well."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cddl_verifier import Validator

from protocol import cbor, messages, schema
from protocol.coap.numbers import payload_uri
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import PrivateKey, generate
from protocol.errors import DecodeError
from protocol.messages import Assignment, Checkin, Outcome, StatusReport, Via
from protocol.suit import author, riot
from protocol.suit.identifiers import RIOT_VENDOR_DOMAIN, class_id, vendor_id
from protocol.suit.labels import ManifestKey
from tests.support.releases import make_release

pytestmark = pytest.mark.vectors

CDDL = Path(__file__).resolve().parents[2] / "docs" / "cddl"
MESSAGES = Validator(CDDL / "messages.cddl")
MANIFEST = Validator(CDDL / "delta-manifest.cddl")
RIOT = Validator(CDDL / "riot-manifest.cddl")
RULES: dict[type, str] = {Checkin: "checkin", Assignment: "assignment", StatusReport: "status-report"}
DIGEST = hashlib.sha256(b"image").digest()
KEY = generate(KeyKind.P256)

CHECKIN = Checkin(
    device_id="board-a-1",
    model="board-a",
    image_digest=DIGEST,
    sequence_number=7,
    slot=1,
    trial=False,
    decoders=("delta/1",),
)
OFFER = Assignment(manifest_uri="/d/board-a-1/m", manifest_digest=DIGEST, size=1_652, poll_s=300)
REPORT = StatusReport(
    device_id="board-a-1",
    manifest_digest=DIGEST,
    outcome=Outcome.CONFIRMED,
    reason=0,
    detail="",
    image_digest=DIGEST,
    sequence_number=8,
    slot=0,
    bytes_up=12_345,
    bytes_down=234_567,
    blocks=70,
    blocks_resent=12,
    via=Via.DELTA,
    duration_s=31,
    power_cuts=0,
)
SAMPLES = (
    CHECKIN,
    replace(CHECKIN, decoders=(), trial=True, sequence_number=2**64 - 1),
    replace(CHECKIN, decoders=("delta/1", "x" * 32), device_id="a" * 64),
    OFFER,
    Assignment(poll_s=1),
    REPORT,
    replace(REPORT, outcome=Outcome.REFUSED, reason=4, detail="ü" * 200, via=None),
)


def holds(validator: Validator, rule: str, data: bytes) -> bool:
    return bool(validator.validate(data, root_type=rule).valid)


def assert_valid(validator: Validator, rule: str, data: bytes) -> None:
    result = validator.validate(data, root_type=rule)

    assert result.valid, [(found.path_text, found.message) for found in result.diagnostics]


# Messages


@pytest.mark.parametrize("message", SAMPLES)
def test_messages_are_what_the_cddl_says(message: Checkin | Assignment | StatusReport) -> None:
    data = messages.encode(message)

    assert_valid(MESSAGES, RULES[type(message)], data)
    assert_valid(MESSAGES, "message", data)
    assert messages.decode(type(message), data) == message  # type: ignore[type-var]  # one of the three


def without(label: int) -> Callable[[dict[int, Any]], dict[int, Any]]:
    return lambda fields: {key: value for key, value in fields.items() if key != label}


def with_value(label: int, value: Any) -> Callable[[dict[int, Any]], dict[int, Any]]:
    return lambda fields: {**fields, label: value}


WRONG: tuple[tuple[Any, str, Callable[[dict[int, Any]], dict[int, Any]]], ...] = (
    (CHECKIN, "a field too many", with_value(8, 0)),
    (CHECKIN, "a field with a name for a label", with_value("slot", 0)),  # type: ignore[arg-type]  # on purpose
    (CHECKIN, "no model", without(2)),
    (CHECKIN, "a number for a name", with_value(1, 5)),
    (CHECKIN, "a name with a slash", with_value(1, "a/b")),
    (CHECKIN, "a name that is too long", with_value(1, "a" * 65)),
    (CHECKIN, "a short digest", with_value(3, DIGEST[:31])),
    (CHECKIN, "a negative sequence number", with_value(4, -1)),
    (CHECKIN, "a third slot", with_value(5, 2)),
    (CHECKIN, "true for a slot", with_value(5, True)),
    (CHECKIN, "1 for true", with_value(6, 1)),
    (CHECKIN, "a decoder without a name", with_value(7, ("",))),
    (CHECKIN, "text for decoders", with_value(7, "delta/1")),
    (OFFER, "a field too many", with_value(5, 0)),
    (OFFER, "no interval", without(4)),
    (OFFER, "null for a digest", with_value(2, None)),
    (OFFER, "an empty path", with_value(1, "")),
    (OFFER, "an interval of more than 32 bits", with_value(4, 2**32)),
    (REPORT, "a field too many", with_value(16, 0)),
    (REPORT, "no outcome", without(3)),
    (REPORT, "an outcome that is none", with_value(3, 5)),
    (REPORT, "a reason of more than a byte", with_value(4, 256)),
    (REPORT, "bytes for text", with_value(5, b"why")),
    (REPORT, "a way that is none", with_value(13, 0)),
    (REPORT, "null for a way", with_value(13, None)),
)


@pytest.mark.parametrize(("message", "why", "change"), WRONG, ids=[f"{type(m).__name__}: {w}" for m, w, _ in WRONG])
def test_what_the_cddl_refuses_is_refused(
    message: Any, why: str, change: Callable[[dict[int, Any]], dict[int, Any]]
) -> None:
    data = cbor.encode(change(schema.to_map(message)))

    assert not holds(MESSAGES, RULES[type(message)], data)
    with pytest.raises(DecodeError):
        messages.decode(type(message), data)


@pytest.mark.parametrize("rule", ["checkin", "offer", "status-report"])
def test_labels_and_names_of_the_cddl_are_those_of_the_tables(rule: str) -> None:
    table = {"checkin": Checkin, "offer": Assignment, "status-report": StatusReport}[rule]
    text = (CDDL / "messages.cddl").read_text()
    body = re.search(rf"^{rule} = {{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
    assert body

    written = re.findall(r"&\(([\w-]+): (\d+)\) =>", body[1])

    assert written == [(column.name.replace("_", "-"), str(column.label)) for column in schema.columns(table)]


# Manifests


RELEASES = {
    "full image only": make_release(0),
    "one earlier version": make_release(1),
    "three, with their sizes": make_release(3, sizes=True),
    "ten": make_release(10),
    "without text": make_release(1, text=False),
    "two images": make_release(0, images=2),
    "two images, three earlier versions": make_release(3, images=2, sizes=True),
}


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
@pytest.mark.parametrize("key", [KEY, generate(KeyKind.ED25519)], ids=["ESP256", "Ed25519"])
def test_envelopes_are_what_the_cddl_says(release: author.Release, key: PrivateKey) -> None:
    envelope = author.build_envelope(release, key)
    _, members = author.build_manifest(release)

    assert_valid(MANIFEST, "envelope", envelope)
    assert_valid(MANIFEST, "install", members[ManifestKey.INSTALL])


def test_severed_envelopes_are_what_the_cddl_says() -> None:
    envelope = cbor.decode(author.build_envelope(make_release(3), KEY))
    severed = {label: member for label, member in envelope.value.items() if label in (2, 3)}

    assert len(severed) < len(envelope.value)
    assert_valid(MANIFEST, "envelope", cbor.encode(cbor.Tag(107, severed)))


def changed_members(change: Callable[[dict[int, Any]], Mapping[int, Any]]) -> bytes:
    envelope = cbor.decode(author.build_envelope(make_release(1), KEY))
    return cbor.encode(cbor.Tag(107, change(dict(envelope.value))))


def unsigned(members: dict[int, Any]) -> Mapping[int, Any]:
    return {**members, 2: cbor.encode(cbor.decode(members[2])[:1])}


def later_version(members: dict[int, Any]) -> Mapping[int, Any]:
    return {**members, 3: cbor.encode({**cbor.decode(members[3]), 1: 2})}


def unknown_member(members: dict[int, Any]) -> Mapping[int, Any]:
    return {**members, 3: cbor.encode({**cbor.decode(members[3]), 25: b""})}


@pytest.mark.parametrize("change", [unsigned, later_version, unknown_member, lambda members: {**members, 1: b""}])
def test_envelopes_of_another_form_do_not_validate(change: Callable[[dict[int, Any]], Mapping[int, Any]]) -> None:
    assert holds(MANIFEST, "envelope", changed_members(lambda members: members))
    assert not holds(MANIFEST, "envelope", changed_members(change))


def test_envelope_without_its_tag_does_not_validate() -> None:
    bare = cbor.decode(author.build_envelope(make_release(1), KEY)).value

    assert not holds(MANIFEST, "envelope", cbor.encode(bare))


def install_branches(branches: Callable[[list[Any]], list[Any]]) -> bytes:
    """Return an install sequence of one earlier version, with the branches of its try-each changed."""
    _, members = author.build_manifest(make_release(1))
    install = list(cbor.decode(members[ManifestKey.INSTALL]))
    install[3] = tuple(branches(list(install[3])))
    return cbor.encode(tuple(install))


def via_delta(change: Callable[[list[Any]], list[Any]]) -> bytes:
    """Return an install sequence with the commands of its delta branch changed."""
    return install_branches(lambda found: [found[0], cbor.encode(tuple(change(list(cbor.decode(found[1]))))), found[2]])


def spoiled() -> Iterator[tuple[str, bytes]]:
    yield "the full image missing", install_branches(lambda found: found[:2])
    yield "the delta before the first test", install_branches(lambda found: [found[1], found[0], found[2]])
    yield "a branch too many", install_branches(lambda found: [*found, found[2]])
    yield "no component index at the begin", via_delta(lambda commands: commands[2:])
    yield "apply-delta without a precursor", via_delta(lambda commands: replaced(commands, -257, None))
    yield "apply-delta of the staging area", via_delta(lambda commands: replaced(commands, -257, 2))
    yield "another custom code", via_delta(lambda commands: [-258 if code == -257 else code for code in commands])
    yield "no nil behind the picks", via_delta(lambda commands: replaced(commands, 15, commands[7][:-1]))
    yield "a reporting policy of five bits", via_delta(lambda commands: replaced(commands, 21, 16))
    yield "a command without its argument", via_delta(lambda commands: commands[:-1])


def replaced(commands: list[Any], code: int, argument: Any) -> list[Any]:
    at = commands.index(code)
    return [*commands[: at + 1], argument, *commands[at + 2 :]]


@pytest.mark.parametrize("data", [pytest.param(data, id=why) for why, data in spoiled()])
def test_install_sequences_of_another_form_do_not_validate(data: bytes) -> None:
    assert holds(MANIFEST, "install", install_branches(lambda found: found))
    assert holds(MANIFEST, "install", via_delta(lambda commands: commands))
    assert not holds(MANIFEST, "install", data)


@pytest.mark.parametrize("component", [(b"ram", b"0"), (b"/nvm0/SLOT0.txt",)])
def test_riot_envelopes_are_what_the_cddl_says(component: tuple[bytes, ...]) -> None:
    vendor = vendor_id(RIOT_VENDOR_DOMAIN)
    release = riot.RiotRelease(
        sequence_number=3,
        vendor_id=vendor,
        class_id=class_id(vendor, "native64"),
        component=component,
        digest=DIGEST,
        size=40_000,
        uri=f"coap://[fd00::1]{payload_uri(DIGEST)}",
    )

    envelope = riot.build_riot_envelope(release, generate(KeyKind.ED25519))

    assert_valid(RIOT, "riot-envelope", envelope)
    assert not holds(RIOT, "riot-envelope", cbor.encode(cbor.Tag(107, cbor.decode(envelope))))
