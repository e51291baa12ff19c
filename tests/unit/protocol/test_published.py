"""The manifests that we publish, run by the processor: every starting combination takes the right payload."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from protocol import cbor
from protocol.errors import OperationError, OtaError
from protocol.suit import author
from protocol.suit.commands import ConditionFailed
from protocol.suit.effects import ApplyDelta, MatchImage
from protocol.suit.identifiers import class_id, vendor_id
from protocol.suit.labels import Parameter
from protocol.suit.processor import Procedure
from tests.support.suit_platform import DELTA_MAGIC, SIGNER, Platform, run_envelope, with_member

VENDOR = vendor_id("vendor.example")
MODEL = class_id(VENDOR, "board-a")
DELTA_1 = class_id(VENDOR, "delta/1")
IMAGES = {version: f"image {version}".encode() * 10 for version in ("1", "2", "3", "4a", "4b")}


def digest(content: bytes) -> bytes:
    return sha256(content).digest()


def target(version: str, slot: int | None = None) -> author.Target:
    return author.Target(digest=digest(IMAGES[version]), size=len(IMAGES[version]), uri=f"/p/{version}", slot=slot)


def precursor(old: str, new: str, slot: int | None = None) -> author.Precursor:
    delta = DELTA_MAGIC + IMAGES[new]
    return author.Precursor(
        digest=digest(IMAGES[old]),
        size=len(IMAGES[old]),
        delta_digest=digest(delta),
        delta_size=len(delta),
        delta_uri=f"/p/{old}-{new}",
        slot=slot,
    )


def world(*pairs: tuple[str, str]) -> dict[str, bytes]:
    images = {f"/p/{version}": content for version, content in IMAGES.items()}
    return images | {f"/p/{old}-{new}": DELTA_MAGIC + IMAGES[new] for old, new in pairs}


def device(
    running: bytes, slot: int = 0, *, in_slot: bytes | None = None, decoder: bool = True, uris: Any = None
) -> Platform:
    images = {author.RUN_INDEX: running} | ({} if in_slot is None else {author.FW_INDEX: in_slot})
    return Platform(
        images=images,
        slots={author.FW_INDEX: slot},
        uris=world(("3", "4a"), ("2", "4a")) if uris is None else uris,
        identifiers={
            Parameter.VENDOR_IDENTIFIER: frozenset({VENDOR}),
            Parameter.CLASS_IDENTIFIER: frozenset({MODEL, DELTA_1} if decoder else {MODEL}),
        },
    )


RELEASE = author.Release(
    sequence_number=4,
    vendor_id=VENDOR,
    class_id=MODEL,
    targets=(target("4a"),),
    precursors=(precursor("3", "4a"), precursor("2", "4a")),
)
ENVELOPE = author.build_envelope(RELEASE, SIGNER)


@pytest.mark.parametrize(
    ("platform", "fetched"),
    [
        (device(IMAGES["3"]), ["/p/3-4a"]),
        (device(IMAGES["2"], slot=1), ["/p/2-4a"]),
        (device(IMAGES["1"]), ["/p/4a"]),
        (device(b""), ["/p/4a"]),
        (device(IMAGES["3"], decoder=False), ["/p/4a"]),
        (device(IMAGES["3"], in_slot=IMAGES["4a"]), []),
        (device(IMAGES["3"], in_slot=IMAGES["4a"][:-1]), ["/p/3-4a"]),
        (device(IMAGES["3"], in_slot=IMAGES["3"]), ["/p/3-4a"]),
        (device(IMAGES["3"], in_slot=IMAGES["2"]), ["/p/3-4a"]),
    ],
)
def test_one_manifest_brings_every_starting_version_to_the_new_one(platform: Platform, fetched: list[str]) -> None:
    run_envelope(ENVELOPE, platform)
    assert platform.fetched() == fetched
    assert platform.images[author.FW_INDEX] == IMAGES["4a"]
    assert platform.images[author.RUN_INDEX] != IMAGES["4a"]
    # Once more, as after a power cut at the end: nothing is left to do.
    before = len(platform.fetched())
    run_envelope(ENVELOPE, platform)
    assert len(platform.fetched()) == before


def test_a_manifest_for_others_changes_nothing() -> None:
    for changed in (replace(RELEASE, vendor_id=bytes(16)), replace(RELEASE, class_id=bytes(16))):
        platform = device(IMAGES["3"])
        with pytest.raises(ConditionFailed):
            run_envelope(author.build_envelope(changed, SIGNER), platform)
        assert platform.fetched() == []


def test_a_device_in_neither_slot_is_refused() -> None:
    platform = device(IMAGES["3"], slot=2)
    with pytest.raises(ConditionFailed, match="no branch of a try-each succeeded"):
        run_envelope(ENVELOPE, platform)
    assert platform.fetched() == []


def test_a_delta_that_is_not_served_fails_definitely_and_the_full_image_follows_without_the_decoder() -> None:
    uris = {name: content for name, content in world().items() if "-" not in name}
    platform = device(IMAGES["3"], uris=uris)
    with pytest.raises(OperationError, match=r"4\.04"):
        run_envelope(ENVELOPE, platform)
    withheld = device(IMAGES["3"], decoder=False, uris=uris)
    run_envelope(ENVELOPE, withheld)
    assert withheld.images[author.FW_INDEX] == IMAGES["4a"]


@pytest.mark.parametrize("delta", [b"", DELTA_MAGIC, DELTA_MAGIC + IMAGES["3"]])
def test_a_delta_with_other_bytes_is_not_applied_and_the_full_image_is_taken(delta: bytes) -> None:
    platform = device(IMAGES["3"], uris={**world(), "/p/3-4a": delta})
    run_envelope(ENVELOPE, platform)
    assert platform.fetched() == ["/p/3-4a", "/p/4a"]
    assert not any(isinstance(effect, ApplyDelta) for effect in platform.log)


def test_a_full_image_with_other_bytes_is_refused() -> None:
    platform = device(IMAGES["1"], uris={"/p/4a": IMAGES["4b"]})
    with pytest.raises(ConditionFailed):
        run_envelope(ENVELOPE, platform)


def test_newest_precursors_are_asked_for_first_and_each_once() -> None:
    platform = device(IMAGES["1"])
    run_envelope(ENVELOPE, platform)
    asked = [effect.digest.value for effect in platform.log if isinstance(effect, MatchImage) and effect.component == 1]
    assert asked[:2] == [digest(IMAGES["3"]), digest(IMAGES["2"])]


@pytest.mark.parametrize("content", [b"\x80", cbor.encode((12, 0, 21, 0)), b""])
def test_a_tampered_install_is_refused_and_an_absent_one_is_missed(content: bytes) -> None:
    for changed in (with_member(ENVELOPE, 20, content), with_member(ENVELOPE, 20, None)):
        platform = device(IMAGES["3"])
        with pytest.raises(OtaError):
            run_envelope(changed, platform)
        assert platform.log == []


def test_the_boot_copy_without_install_still_validates() -> None:
    boot_copy = with_member(ENVELOPE, 20, None)
    run_envelope(boot_copy, device(b"", in_slot=IMAGES["4a"]), Procedure.INVOKE)
    with pytest.raises(ConditionFailed):
        run_envelope(boot_copy, device(b"", in_slot=IMAGES["3"]), Procedure.INVOKE)


# Two images, one for each slot: 4a for slot 0, 4b for slot 1; deltas from 3 to either, from 2 to slot 1 only.
TWO = author.build_envelope(
    replace(
        RELEASE,
        targets=(target("4a", 0), target("4b", 1)),
        precursors=(precursor("3", "4a", 0), precursor("3", "4b", 1), precursor("2", "4b", 1)),
    ),
    SIGNER,
)


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("in_slot", [None, "1", "2", "3", "4a", "4b"])
@pytest.mark.parametrize("running", ["1", "2", "3"])
@pytest.mark.parametrize("slot", [0, 1])
def test_with_two_images_every_starting_combination_takes_the_right_payload(
    slot: int, running: str, in_slot: str | None, decoder: bool
) -> None:
    new = ("4a", "4b")[slot]
    platform = device(
        IMAGES[running],
        slot,
        in_slot=None if in_slot is None else IMAGES[in_slot],
        decoder=decoder,
        uris=world(("3", "4a"), ("3", "4b"), ("2", "4b")),
    )
    run_envelope(TWO, platform)
    has_delta = decoder and (running, slot) in {("3", 0), ("3", 1), ("2", 1)}
    due = [] if in_slot == new else [f"/p/{running}-{new}" if has_delta else f"/p/{new}"]
    assert platform.fetched() == due
    assert platform.images[author.FW_INDEX] == IMAGES[new]
    run_envelope(TWO, platform, Procedure.VALIDATE)


def test_two_images_for_a_device_in_neither_slot_are_refused() -> None:
    with pytest.raises(ConditionFailed):
        run_envelope(TWO, device(IMAGES["3"], slot=7))
