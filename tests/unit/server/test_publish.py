"""Publishing: deltas that work, a manifest that authenticates, all of it or nothing."""

import asyncio
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from coap_server.app import Storage
from coap_server.errors import ConflictError, InputError, NotFoundError, ServerError, StoreError
from coap_server.services import deltas as deltas_module
from coap_server.services import publish as module
from coap_server.services.deltas import Edge, make_deltas, plan_edges
from coap_server.services.keys import load_signer
from coap_server.services.publish import prepare, publish
from coap_server.store.base import Profile, Release
from protocol import cbor
from protocol.delta import CODECS
from protocol.errors import PolicyError
from protocol.suit.authentication import authenticate
from protocol.suit.codec import decode_manifest
from protocol.suit.diagnostic import render_envelope
from protocol.suit.identifiers import RIOT_VENDOR_DOMAIN, class_id, vendor_id
from tests.support.firmware import make_firmware
from tests.unit.server.conftest import MODEL, Bench, Publish, listing

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def tree(storage: Storage, release: Release) -> str:
    return "\n".join(line.text for line in render_envelope(storage.blobs.read(release.envelope_digest)))


async def test_first_release_is_signed_and_stored(bench: Bench, storage: Storage, publishing: Publish) -> None:
    result = await publishing(1)

    image = bench.image(1).read_bytes()
    release = result.release
    assert (release.sequence_number, release.image_size, release.promoted) == (1, len(image), True)
    assert storage.blobs.read(release.image_digest) == image
    envelope = storage.blobs.read(release.envelope_digest)
    assert len(envelope) == release.envelope_size
    decoded = decode_manifest(authenticate(envelope, (load_signer(bench.key).public,)))
    assert decoded.manifest.sequence_number == 1
    assert decoded.text is not None
    text = tree(storage, release)
    assert f"/p/{hashlib.sha256(image).hexdigest()[:16]}" in text
    assert f"{MODEL} 1.0" in text


async def test_sequence_numbers_rise_by_themselves_or_as_told(publishing: Publish) -> None:
    first, second = await publishing(1), await publishing(2, sequence_number=10)
    third = await publishing(3)

    assert [result.release.sequence_number for result in (first, second, third)] == [1, 10, 11]


async def test_delta_makes_the_new_image_from_the_old_one(bench: Bench, storage: Storage, publishing: Publish) -> None:
    await publishing(1)
    steps: list[tuple[str, int, int]] = []
    request = bench.request(2)

    result = await publish(prepare(request), storage.database, storage.blobs, progress=lambda *step: steps.append(step))

    old, new = bench.image(1).read_bytes(), bench.image(2).read_bytes()
    (made,) = result.deltas
    patch = storage.blobs.read(made.delta.digest)
    assert made.used
    assert len(patch) == made.delta.size < len(new) // 4
    pieces = CODECS["delta/1"].patch(
        lambda offset, size: old[offset : offset + size],
        len(old),
        lambda offset, size: patch[offset : offset + size],
        len(patch),
        len(new),
    )
    assert b"".join(pieces) == new
    assert ("making deltas", 1, 1) in steps
    assert f"/p/{made.delta.digest.hex()[:16]}" in tree(storage, result.release)


async def test_newest_ten_versions_get_a_delta_and_the_manifest_stays_small(
    bench: Bench, storage: Storage, publishing: Publish
) -> None:
    for number in range(1, 13):
        await publishing(number)

    result = await publishing(13, with_deltas=True)

    assert [made.base.version for made in result.deltas] == [f"{number}.0" for number in range(12, 2, -1)]
    assert all(made.used for made in result.deltas)
    assert result.release.envelope_size < 1_750


async def test_bases_can_be_chosen(publishing: Publish) -> None:
    for number in (1, 2, 3):
        await publishing(number)

    chosen = await publishing(4, with_deltas=True, bases=("1.0", "3.0"))
    limited = await publishing(5, with_deltas=True, max_precursors=1)

    assert [made.base.version for made in chosen.deltas] == ["3.0", "1.0"]
    assert [made.base.version for made in limited.deltas] == ["4.0"]
    with pytest.raises(NotFoundError, match=r"--from 9\.9: model plug has no such version; it has 5\.0, 4\.0"):
        await publishing(6, with_deltas=True, bases=("9.9",))


async def test_delta_that_is_not_smaller_is_left_out(bench: Bench, storage: Storage, publishing: Publish) -> None:
    for number in (1, 2):
        bench.image(number).write_bytes(os.urandom(2_000))
    await publishing(1)

    result = await publishing(2, with_deltas=True)

    (made,) = result.deltas
    assert not made.used
    assert not storage.blobs.path(made.delta.digest).exists()
    assert "directive-apply-delta" not in tree(storage, result.release)


async def test_known_delta_is_not_made_again(publishing: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    await publishing(1)
    first = await publishing(2, with_deltas=True)

    async def none(codec: str, pairs: object, on_done: object) -> list[bytes]:
        assert pairs == []
        return []

    monkeypatch.setattr(module, "make_deltas", none)
    again = await publishing(2, version="2.1", with_deltas=True, bases=("1.0",))

    assert again.deltas[0].delta == first.deltas[0].delta


async def test_image_for_each_slot_gets_deltas_for_its_slot(
    bench: Bench, storage: Storage, publishing: Publish
) -> None:
    await publishing(1)
    await publishing(2, image_b=bench.image(3))

    result = await publishing(4, image_b=bench.image(5), with_deltas=True)

    one, two_a, two_b = (hashlib.sha256(bench.image(number).read_bytes()).digest() for number in (1, 2, 3))
    found = {(made.delta.from_image_digest, made.slot) for made in result.deltas}
    assert found == {(two_a, 1), (two_b, 0), (one, 0), (one, 1)}
    text = tree(storage, result.release)
    for image in result.release.images:
        assert f"/p/{image.hex()[:16]}" in text


def release(number: int, *images: bytes) -> Release:
    return Release(
        id=number,
        model_id=1,
        version=str(number),
        sequence_number=number,
        profile=Profile.SUIT,
        image_digest=images[0],
        image_size=1,
        image_b_digest=images[1] if len(images) == 2 else None,
        envelope_digest=b"",
        envelope_size=0,
        manifest_digest=b"",
        promoted=True,
        created_at=NOW,
    )


A, B, C, D = b"a", b"b", b"c", b"d"
EDGES: dict[str, tuple[list[bytes], list[Release], list[tuple[bytes, bytes, int | None]]]] = {
    "one to one": ([C], [release(1, A)], [(A, C, None)]),
    "the same image needs none": ([A], [release(1, A)], []),
    "the same base twice": ([C], [release(2, A), release(1, A)], [(A, C, None)]),
    "two to one": ([C], [release(1, A, B)], [(A, C, None), (B, C, None)]),
    "one to two": ([C, D], [release(1, A)], [(A, C, 0), (A, D, 1)]),
    "two to two": ([C, D], [release(1, A, B)], [(A, D, 1), (B, C, 0)]),
    "half the same": ([A, D], [release(1, A, B)], [(A, D, 1), (B, A, 0)]),
}


@pytest.mark.parametrize(("targets", "bases", "expected"), EDGES.values(), ids=EDGES.keys())
def test_edges(targets: list[bytes], bases: list[Release], expected: list[tuple[bytes, bytes, int | None]]) -> None:
    assert list(plan_edges(targets, bases)) == [
        Edge(source=source, target=target, slot=slot) for source, target, slot in expected
    ]


async def test_riot_release_has_riots_form_and_no_deltas(bench: Bench, storage: Storage, publishing: Publish) -> None:
    riot = {"profile": Profile.RIOT, "key": bench.riot_key, "uri_base": "coap://[fd00::1]:5683/", "model": "native64"}
    await publishing(1, **riot)

    result = await publishing(2, with_deltas=True, **riot)

    envelope = storage.blobs.read(result.release.envelope_digest)
    assert result.deltas == ()
    assert len(envelope) <= 640
    mapping = cbor.decode(envelope, path="envelope")
    assert list(mapping) == [2, 3]
    manifest = cbor.decode(mapping[3], path="manifest")
    assert manifest[2] == 2
    vendor = vendor_id(RIOT_VENDOR_DOMAIN)
    common = cbor.decode(manifest[3], path="common")
    assert common[2] == ((b"/nvm0/SLOT0.txt",),)
    parameters = cbor.decode(common[4], path="sequence")[1]
    assert (parameters[1], parameters[2]) == (vendor, class_id(vendor, "native64"))
    install = cbor.decode(manifest[9], path="install")
    assert install[1][21] == f"coap://[fd00::1]:5683/p/{result.release.image_digest.hex()[:16]}"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"uri_base": None}, InputError, "needs --uri-base"),
        ({"uri_base": "http://host"}, InputError, "'http://host': coap://HOST"),
        ({"uri_base": "coap://[::1"}, InputError, "coap://HOST"),
        ({"uri_base": "coap://host/path"}, InputError, "coap://HOST"),
        ({"uri_base": "coap://host?"}, InputError, "coap://HOST"),
        ({"uri_base": "coap://host#x"}, InputError, "coap://HOST"),
        ({"uri_base": "coap://me@host"}, InputError, "coap://HOST"),
        ({"uri_base": "coap://ho st"}, InputError, "coap://HOST"),
        ({"uri_base": "coap://host\n"}, InputError, "coap://HOST"),
        ({"bases": ("1.0",)}, InputError, "--from does not go with --profile riot-09"),
        ({"component": "/a-name-far-too-long-for-that-little-thing"}, PolicyError, "component name of 42 bytes"),
        ({"image_b": True}, InputError, "exactly one component"),
        ({"key": False}, InputError, "needs Ed25519"),
    ],
)
def test_what_riot_cannot_take_is_refused_before_anything_is_touched(
    bench: Bench, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    values = {"profile": Profile.RIOT, "key": bench.riot_key, "uri_base": "coap://host", "model": "native64"} | changes
    if values["key"] is False:
        values["key"] = bench.key
    if values.get("image_b"):
        values["image_b"] = bench.image(2)

    with pytest.raises(error, match=words):
        prepare(bench.request(1, **values))

    assert not bench.data.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "no good"}, "--model: 'no good' is not a name"),
        ({"version": ""}, "--version ''"),
        ({"vendor_domain": "-"}, "--vendor-domain '-'"),
        ({"sequence_number": 0}, "--sequence 0"),
        ({"sequence_number": 2**63}, "--sequence"),
        ({"max_precursors": -1}, "--max-precursors -1"),
        ({"description": "half a surrogate \udc80"}, "--description"),
        ({"description": "\x1b[31mred"}, "--description"),
        ({"bases": ("1.0",), "with_deltas": False}, "--from and --no-delta contradict"),
        ({"uri_base": "coap://host"}, "--uri-base is for --profile riot-09 only"),
        ({"component": "ram:0"}, "--component is for --profile riot-09 only"),
        ({"slot_size": 39_999}, "40000 bytes, the slot takes 39999"),
    ],
)
def test_bad_arguments_are_named(bench: Bench, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        prepare(bench.request(1, **changes))


async def test_version_and_sequence_number_are_taken_once(publishing: Publish, storage: Storage) -> None:
    await publishing(1, sequence_number=5)
    before = listing(storage.blobs.folder)

    with pytest.raises(ConflictError, match=r"version 1\.0 of model plug is published already"):
        await publishing(2, version="1.0")
    with pytest.raises(ConflictError, match="--sequence 5 is not above 5"):
        await publishing(2, sequence_number=5)
    with pytest.raises(ConflictError, match=r"is of vendor coap-ota\.example, not other\.example"):
        await publishing(2, vendor_domain="other.example")

    assert listing(storage.blobs.folder) == before


async def test_nothing_follows_the_highest_sequence_number(publishing: Publish) -> None:
    await publishing(1, sequence_number=2**63 - 1)

    with pytest.raises(ConflictError, match="highest sequence number there is"):
        await publishing(2)


@pytest.mark.faults
@pytest.mark.parametrize(("content", "state"), [(None, "missing"), (b"other", "damaged")])
async def test_base_that_is_not_what_it_was_is_named(
    publishing: Publish, storage: Storage, content: bytes | None, state: str
) -> None:
    first = await publishing(1)
    path = storage.blobs.path(first.release.image_digest)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    before = listing(storage.blobs.folder)

    with pytest.raises(StoreError, match=rf"is {state}; publish version 1\.0's file again.*--no-delta") as caught:
        await publishing(2, with_deltas=True)

    assert caught.value.__cause__ is None
    assert listing(storage.blobs.folder) == before


@pytest.mark.faults
async def test_delta_that_was_damaged_is_made_again(publishing: Publish, storage: Storage) -> None:
    await publishing(1)
    made = (await publishing(2, with_deltas=True)).deltas[0]
    path = storage.blobs.path(made.delta.digest)
    whole = path.read_bytes()
    path.write_bytes(b"damaged")

    await publishing(2, version="2.1", with_deltas=True, bases=("1.0",))

    assert path.read_bytes() == whole


async def test_manifest_too_large_for_a_device_is_refused(publishing: Publish, storage: Storage) -> None:
    with pytest.raises(InputError, match="shorten --description"):
        await publishing(1, description="x" * 9_000)

    assert listing(storage.blobs.folder) == {}


async def fail(*_: object, **__: object) -> Any:
    raise StoreError("disk full")


async def die(*_: object, **__: object) -> Any:
    raise asyncio.CancelledError


def break_database(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.database, "add_release", fail)


def break_deltas(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "make_deltas", fail)


def cancel_deltas(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "make_deltas", die)


@pytest.mark.faults
@pytest.mark.parametrize("spoil", [break_database, break_deltas, cancel_deltas])
async def test_failed_publish_leaves_nothing_behind(
    publishing: Publish,
    storage: Storage,
    spoil: Callable[[Storage, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await publishing(1)
    before = listing(storage.blobs.folder), await storage.database.releases(), await storage.database.artifacts()
    spoil(storage, monkeypatch)

    with pytest.raises((StoreError, asyncio.CancelledError)):
        await publishing(2, with_deltas=True)

    after = listing(storage.blobs.folder), await storage.database.releases(), await storage.database.artifacts()
    assert after == before


@pytest.mark.faults
async def test_publish_cancelled_while_the_database_commits_is_published(
    bench: Bench, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, committing = storage.database.add_release, asyncio.Event()

    async def slow(*arguments: Any) -> Release:
        committing.set()
        await asyncio.sleep(0.01)
        return await real(*arguments)

    monkeypatch.setattr(storage.database, "add_release", slow)
    draft = prepare(bench.request(1))
    task = asyncio.create_task(publish(draft, storage.database, storage.blobs))
    await committing.wait()
    task.cancel()

    result = await task

    assert storage.blobs.read(result.release.image_digest) == bench.image(1).read_bytes()
    assert len(await storage.database.releases()) == 1


async def test_two_publishers_take_turns(publishing: Publish) -> None:
    results = await asyncio.gather(publishing(1), publishing(2), publishing(3))

    assert sorted(result.release.sequence_number for result in results) == [1, 2, 3]


def killed(codec: str, old: Path, new: Path) -> bytes:
    os._exit(9)


async def test_codec_that_kills_its_process_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(make_firmware(1, 500))
    monkeypatch.setattr(deltas_module, "_diff", killed)

    with pytest.raises(ServerError, match="a process that made a delta died"):
        await make_deltas("delta/1", [(tmp_path / "old", tmp_path / "new")])
