"""Other people's SUIT envelopes: what authenticates, what is refused and why, and what a device ends with."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from protocol import cbor
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import PublicKey, generate, load_public_keys
from protocol.errors import (
    REASON_COSE_UNSUPPORTED,
    AuthenticityError,
    DecodeError,
    OtaError,
    PolicyError,
    ProtocolError,
    UnsupportedError,
)
from protocol.suit import author
from protocol.suit.authentication import TrustAnchors, authenticate
from protocol.suit.codec import decode_manifest
from protocol.suit.diagnostic import render_envelope
from protocol.suit.envelope import open_envelope
from protocol.suit.identifiers import class_id, vendor_id
from protocol.suit.labels import Parameter
from protocol.suit.model import component_id_from_value
from protocol.suit.processor import Procedure, Processor, perform_all
from protocol.suit.verification import check_envelope, is_authentic
from tests.support.expect import missing
from tests.support.suit_platform import Platform

pytestmark = pytest.mark.vectors

IN_USE: Final = frozenset({-7, -8, -9, -19})
LATER: Final[Mapping[str, frozenset[str]]] = {
    "ML-DSA": frozenset({"ok-mldsa44", "ok-mldsa65", "ok-mldsa87"}),
    "HSS/LMS": frozenset({"bad-hsslms-flip"}),
    "ESP384": frozenset({"ok-esp384"}),
    "COSE_Mac0": frozenset({"bad-alg-confusion-hmac"}),
    "COSE_Sign": frozenset({"ok-cose-sign-2"}),
    "directive-swap": frozenset({"ok-swap"}),
    "encryption": frozenset(
        {
            "ok-enc-aeskw-gcm",
            "ok-enc-aeskw-chacha",
            "ok-enc-ecdh-gcm",
            "bad-enc-gcm-tag",
            "bad-enc-kdf-context",
            "bad-enc-ctr-no-digest-flip",
        }
    ),
    "dependencies": frozenset(
        {
            "ok-dependency",
            "bad-dependency-digest",
            "bad-dependency-no-integrity",
            "bad-dependency-not-listed",
            "bad-dependency-signer",
        }
    ),
    "condition-use-before": frozenset({"ok-use-before", "ok-use-before-64bit"}),
    "condition-update-authorized": frozenset({"ok-authorized", "bad-authorized"}),
    "condition-version": frozenset(
        {
            "ok-version-ge",
            "ok-version-eq-prefix",
            "ok-version-le",
            "bad-version-final-not-lt-rc",
            "bad-version-gt-equal",
        }
    ),
}
"""Cases that need a feature which is not in use here yet, by feature. They are refused, never obeyed in part."""
LATER_NAMES: Final = frozenset(name for names in LATER.values() for name in names)
UNTAGGED: Final = frozenset({"ok-untagged"})

_ROW = re.compile(r"\| (?P<file>\S+\.suit) \|[^|]*\|[^|]*\| (?P<by>[^|]*) \| (?P<expected>.*) \|$")
_SIGNED = re.compile(r"tag (?P<tag>\d+) alg (?P<alg>-?\d+) (?P<key>\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One envelope of INDEX.md."""

    file: str
    tag: int | None
    algorithm: int | None
    key: str
    expected: str


@pytest.fixture(scope="module")
def rows(vectors_dir: Path) -> list[Row]:
    found = []
    for line in (vectors_dir / "INDEX.md").read_text().splitlines():
        if (row := _ROW.match(line)) is None:
            continue
        signed = _SIGNED.match(row["by"])
        found.append(
            Row(
                file=row["file"],
                tag=int(signed["tag"]) if signed else None,
                algorithm=int(signed["alg"]) if signed else None,
                key=signed["key"].replace("-", "_") if signed else "",
                expected=row["expected"],
            )
        )
    return [row for row in found if row.file.startswith("suit/")]


@pytest.fixture(scope="module")
def keys(vectors_dir: Path) -> Mapping[str, bytes]:
    stored = json.loads((vectors_dir / "keys.json").read_text())["cose_keys"]
    return {name: bytes.fromhex(key) for name, key in stored.items()}


@pytest.fixture(scope="module")
def cases(vectors_dir: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((vectors_dir / "made" / "cases.json").read_text())
    return found


def _anchor(keys: Mapping[str, bytes], name: str) -> TrustAnchors:
    return load_public_keys(keys[name])


def test_every_envelope_that_the_index_marks_authenticates(
    vectors_dir: Path, rows: list[Row], keys: Mapping[str, bytes]
) -> None:
    signed = [row for row in rows if row.tag == 18 and row.algorithm in IN_USE]
    assert len(signed) >= 30
    for row in signed:
        data = (vectors_dir / row.file).read_bytes()
        # TEEP sends envelopes without the tag; the older test files have that form.
        untagged = not isinstance(cbor.decode(data, limits=cbor.Limits(size=len(data))), cbor.Tag)
        authentic = authenticate(data, _anchor(keys, row.key), allow_untagged=untagged)
        assert authentic.algorithm == row.algorithm, row.file
        assert not is_authentic(check_envelope(data, (generate(KeyKind.P256).public,), allow_untagged=True)), row.file


def test_every_signed_envelope_is_refused_after_any_bit_of_its_manifest_flips(
    vectors_dir: Path, rows: list[Row], keys: Mapping[str, bytes]
) -> None:
    for row in [row for row in rows if row.tag == 18 and row.algorithm in IN_USE][::4]:
        data = (vectors_dir / row.file).read_bytes()
        start = data.index(open_envelope(data, allow_untagged=True).manifest)
        for position in range(start, start + len(open_envelope(data, allow_untagged=True).manifest)):
            changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
            with pytest.raises(AuthenticityError):
                authenticate(changed, _anchor(keys, row.key), allow_untagged=True)


def test_every_unsigned_envelope_is_refused(vectors_dir: Path, rows: list[Row], keys: Mapping[str, bytes]) -> None:
    unsigned = [row for row in rows if row.tag is None]
    assert unsigned
    for row in unsigned:
        with pytest.raises(AuthenticityError):
            authenticate((vectors_dir / row.file).read_bytes(), _anchor(keys, "trust_anchor_p256"), allow_untagged=True)


def test_every_envelope_with_a_mac_is_refused_as_unsupported(
    vectors_dir: Path, rows: list[Row], keys: Mapping[str, bytes]
) -> None:
    with_mac = [row for row in rows if row.tag == 17]
    assert with_mac
    for row in with_mac:
        with pytest.raises(UnsupportedError) as refused:
            authenticate((vectors_dir / row.file).read_bytes(), _anchor(keys, "trust_anchor_p256"), allow_untagged=True)
        assert refused.value.reason == REASON_COSE_UNSUPPORTED


def test_every_signed_envelope_has_a_tree(vectors_dir: Path, rows: list[Row]) -> None:
    for row in rows:
        lines = [line.text for line in render_envelope((vectors_dir / row.file).read_bytes())]
        assert any(text.startswith("authentication-wrapper (2)") for text in lines), row.file
        assert not any(text.startswith("not readable") for text in lines), row.file


def test_manifests_with_the_old_number_of_install_are_refused_when_they_are_decoded(
    vectors_dir: Path, rows: list[Row], keys: Mapping[str, bytes]
) -> None:
    refused = 0
    for row in [row for row in rows if "must refuse key 17" in row.expected]:
        authentic = authenticate((vectors_dir / row.file).read_bytes(), _anchor(keys, row.key), allow_untagged=True)
        if 17 not in cbor.decode(authentic.envelope.manifest):
            continue  # it only validates and invokes, which kept their numbers
        with pytest.raises(DecodeError, match="unknown key 17"):
            decode_manifest(authentic)
        refused += 1
    assert refused >= 7


def test_legacy_envelopes_of_other_generators_are_refused(vectors_dir: Path, keys: Mapping[str, bytes]) -> None:
    legacy = sorted((vectors_dir / "generated").glob("arm-*.suit"))
    assert legacy
    for file in legacy:
        with pytest.raises(ProtocolError):
            decode_manifest(authenticate(file.read_bytes(), _anchor(keys, "trust_anchor_p256"), allow_untagged=True))


# ------------------------------------------------------------------------------------------- conformance cases


def test_every_case_of_a_feature_in_use_ends_as_it_says(
    vectors_dir: Path, cases: list[dict[str, Any]], keys: Mapping[str, bytes]
) -> None:
    chosen = [case for case in cases if case["name"] not in LATER_NAMES]
    assert len(chosen) >= 55
    differing = [text for case in chosen if (text := _difference(vectors_dir, case, keys))]
    assert not differing


def test_every_case_of_a_later_feature_is_refused(
    vectors_dir: Path, cases: list[dict[str, Any]], keys: Mapping[str, bytes]
) -> None:
    assert {case["name"] for case in cases} >= LATER_NAMES
    for case in cases:
        if case["name"] in LATER_NAMES:
            verdict, reason = _verdict(vectors_dir, case, keys, _platform(case))
            assert verdict == "reject", f"{case['name']}: {verdict} {reason}"


def _difference(vectors_dir: Path, case: dict[str, Any], keys: Mapping[str, bytes]) -> str:
    platform = _platform(case)
    verdict, reason = _verdict(vectors_dir, case, keys, platform)
    if (verdict, reason) != (case["expect"], case["reason"]):
        return f"{case['name']}: {verdict} {reason}, not {case['expect']} {case['reason']} ({case['why']})"
    if verdict == "accept":
        digests = {index: sha256(content).hexdigest() for index, content in platform.images.items()}
        due = {_indices(vectors_dir, case)[name]: value for name, value in case["final_components"].items()}
        if digests != due:
            return f"{case['name']}: ends with {digests}, not {due}"
    return ""


def _verdict(
    vectors_dir: Path, case: dict[str, Any], keys: Mapping[str, bytes], platform: Platform
) -> tuple[str, int | None]:
    data = (vectors_dir / "made" / f"{case['name']}.suit").read_bytes()
    try:
        trust: list[PublicKey] = []
        for name in case["device"]["trust"]:
            trust += load_public_keys(keys[name])
        decoded = decode_manifest(authenticate(data, tuple(trust), allow_untagged=case["name"] in UNTAGGED))
        if decoded.manifest.sequence_number < case["device"]["min_sequence"]:
            raise PolicyError("rollback")
        indices = {cbor.encode(name).hex(): index for index, name in enumerate(decoded.manifest.common.components)}
        device = case["device"]
        platform.images = {indices[name]: bytes.fromhex(value) for name, value in device["components"].items()}
        platform.slots = {indices[name]: slot for name, slot in device["slots"].items()}
        platform.uris = {
            **{uri: bytes.fromhex(value) for uri, value in device["uris"].items()},
            **decoded.authentic.envelope.payloads,
        }
        perform_all(Processor(decoded).run(Procedure[device.get("procedure", "update").upper()]), platform.perform)
    except OtaError as error:
        return "reject", error.reason
    return "accept", None


def _platform(case: dict[str, Any]) -> Platform:
    device = case["device"]
    return Platform(
        identifiers={
            Parameter.VENDOR_IDENTIFIER: frozenset({bytes.fromhex(device["vendor_id"])}),
            Parameter.CLASS_IDENTIFIER: frozenset({bytes.fromhex(device["class_id"])}),
            Parameter.DEVICE_IDENTIFIER: frozenset({bytes.fromhex(device["device_id"])}),
        }
    )


def _indices(vectors_dir: Path, case: dict[str, Any]) -> dict[str, int]:
    envelope = open_envelope((vectors_dir / "made" / f"{case['name']}.suit").read_bytes(), allow_untagged=True)
    common = cbor.decode(cbor.decode(envelope.manifest)[3])
    components = [component_id_from_value(item, "components") for item in common[2]]
    return {cbor.encode(name).hex(): index for index, name in enumerate(components)}


# --------------------------------------------------------------------------------------- the delta manifest format


@pytest.fixture(scope="module")
def three_versions(vectors_dir: Path) -> bytes:
    """The signed manifest with three earlier versions that came with the format: OTA_SPEC, or next to the vectors."""
    given = os.environ.get("OTA_SPEC")
    file = (Path(given) if given else vectors_dir.parent / "spec") / "delta-manifest-n3.suit"
    if not file.is_file():
        missing(f"there is no {file}; set OTA_SPEC to its folder")
    return file.read_bytes()


def test_the_given_delta_manifest_authenticates(three_versions: bytes, keys: Mapping[str, bytes]) -> None:
    trust = _anchor(keys, "trust_anchor_p256")
    decoded = decode_manifest(authenticate(three_versions, trust))
    assert decoded.manifest.sequence_number == 7
    assert is_authentic(check_envelope(three_versions, trust))


def test_the_given_delta_manifest_is_shown_as_a_tree_with_names_of_the_standard(three_versions: bytes) -> None:
    text = "\n".join("  " * line.depth + line.text for line in render_envelope(three_versions))
    for name in (
        "authentication-wrapper (2)",
        "COSE_Sign1, algorithm -9 (ESP256)",
        "manifest (3)",
        "sequence-number (2): 7",
        "components (2)",
        "shared-sequence (4)",
        "directive-set-component-index (12): 0",
        "vendor-identifier (1)",
        "image-digest (3): SHA-256 ",
        "condition-component-slot (5)",
        "directive-try-each (15)",
        "branch 3: nil, succeed",
        "directive-fetch (21)",
        "directive-apply-delta (-257): 1",
        "condition-image-match (3)",
        "install (20), severed",
        "manifest-description (1)",
        "component fw",
    ):
        assert name in text, name


def test_our_author_writes_the_given_delta_manifest_byte_for_byte(three_versions: bytes) -> None:
    given = open_envelope(three_versions)
    ours = open_envelope(author.build_envelope(_release(three_versions), generate(KeyKind.P256)))
    assert ours.manifest == given.manifest
    assert dict(ours.members) == dict(given.members)
    assert len(ours.raw) == len(given.raw)


def _release(three_versions: bytes) -> author.Release:
    vendor = vendor_id("vendor.example")
    deltas = (
        (
            "14b1fe60ed482ae7f087096312e5ee5d1d77fae82a73ab2774aeffcbc45e41fa",
            "5232f9b428566797aab2aa98bf461fd703cab73791bdf0d46b72896a8b3a336c",
            16_022,
        ),
        (
            "3a2830ffc3c8d1ffdafe432707ba8a0faea6fc5556a9b5b24216db815f01da58",
            "208604df7d1ffb601a154faa9bc8c9b468235307ed911c872df17aed0d256d39",
            16_322,
        ),
        (
            "fce74a194fe38aa133f18d8b9bff97658bb3f95e26c7488bb11ccc21e6e3ca5d",
            "e384608faf8e4cb215144cdf96c50702306d7ba392ec5b287069846addd79e47",
            16_622,
        ),
    )
    image = "61ba4d01b2665057bd6419bd3411961808363e9fda732be4315a3b73196f17cc"
    return author.Release(
        sequence_number=7,
        vendor_id=vendor,
        class_id=class_id(vendor, "board-a rev1"),
        targets=(author.Target(digest=bytes.fromhex(image), size=231_608, uri=f"/p/{image[:16]}"),),
        precursors=tuple(
            author.Precursor(
                digest=bytes.fromhex(old),
                delta_digest=bytes.fromhex(delta),
                delta_size=size,
                delta_uri=f"/p/{delta[:16]}",
            )
            for old, delta, size in deltas
        ),
        text=author.Text(
            description="board-a firmware 1.3.0",
            update_description="Fixes the radio; adds a shell.",
            model_name="board-a",
            component_version="1.3.0",
        ),
    )
