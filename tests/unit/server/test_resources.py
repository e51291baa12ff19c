"""The resources over real aiocoap on loopback."""

import asyncio
import contextlib
import hashlib
from dataclasses import replace
from typing import Any

import aiocoap
import pytest

from coap_server.app import Storage
from protocol import messages
from protocol.messages import Assignment, Checkin, Outcome, StatusReport
from tests.unit.server.conftest import MODEL, Bench, Publish, Served

CHECKIN = Checkin(
    device_id="dev-1",
    model=MODEL,
    image_digest=bytes(32),
    sequence_number=0,
    slot=0,
    trial=False,
    decoders=("delta/1",),
)


@pytest.fixture
async def payload(bench: Bench, publishing: Publish) -> tuple[str, bytes]:
    """The path and the bytes of a published image."""
    image = bench.image(1).read_bytes() * 3  # more than 100 blocks
    bench.image(1).write_bytes(image)
    result = await publishing(1)
    return f"/p/{result.release.image_digest.hex()[:16]}", image


@pytest.mark.spec("RFC 7959 2.4")
async def test_any_block_can_be_the_first(served: Served, payload: tuple[str, bytes]) -> None:
    path, image = payload

    for num in (100, 3, 0, 116):
        response = await served.request(path, block2=(num, False, 6))
        assert response.code is aiocoap.CONTENT
        assert response.payload == image[num * 1_024 : (num + 1) * 1_024]
        assert response.opt.block2 == (num, (num + 1) * 1_024 < len(image), 6)
        assert response.opt.size2 == len(image)
        assert response.opt.etag == hashlib.sha256(image).digest()[:8]
        assert response.opt.content_format == 42


@pytest.mark.spec("RFC 7252 5.4.1")
async def test_a_critical_option_that_is_not_understood_is_refused(served: Served, payload: tuple[str, bytes]) -> None:
    path, _ = payload

    response = await served.request(path, extra=(99, b"?"))

    assert response.code is aiocoap.BAD_OPTION
    assert b"99" in response.payload


@pytest.mark.parametrize("szx", range(7))
async def test_every_block_size_is_served(served: Served, payload: tuple[str, bytes], szx: int) -> None:
    path, image = payload
    size = 16 << szx

    response = await served.request(path, block2=(5, False, szx))

    assert response.payload == image[5 * size : 6 * size]
    assert response.opt.block2.size_exponent == szx


async def test_without_a_block_option_block_0_is_meant(served: Served, payload: tuple[str, bytes]) -> None:
    path, image = payload

    response = await served.request(path)

    assert (response.payload, response.opt.block2) == (image[:1_024], (0, True, 6))


async def test_whole_payload_has_the_digest_of_its_name(served: Served, payload: tuple[str, bytes]) -> None:
    path, image = payload

    body = await served.fetch(path)

    assert body == image
    assert hashlib.sha256(body).hexdigest().startswith(path.removeprefix("/p/"))


async def test_block_behind_the_end_is_refused_with_the_size(served: Served, payload: tuple[str, bytes]) -> None:
    path, image = payload

    response = await served.request(path, block2=(1_000, False, 6))

    assert response.code is aiocoap.BAD_REQUEST
    assert response.payload.decode() == f"block 1000 begins at byte 1024000, the representation has {len(image)}"


async def test_reserved_size_exponent_is_refused(served: Served, payload: tuple[str, bytes]) -> None:
    response = await served.request(payload[0], block2=(0, False, 7))

    assert response.code is aiocoap.BAD_REQUEST
    assert b"reserved" in response.payload


@pytest.mark.spec("RFC 7252 5.10.6.2")
async def test_client_that_holds_the_representation_is_told_so(served: Served, payload: tuple[str, bytes]) -> None:
    path, image = payload
    etag = hashlib.sha256(image).digest()[:8]

    same = await served.request(path, etags=[b"other", etag])
    other = await served.request(path, etags=[b"other"])

    assert (same.code, same.opt.etag, same.payload) == (aiocoap.VALID, etag, b"")
    assert other.code is aiocoap.CONTENT


@pytest.mark.spec("RFC 7252 5.10.4")
async def test_accept_chooses_or_is_refused(served: Served, payload: tuple[str, bytes]) -> None:
    for path, accept, code in (
        (payload[0], 42, aiocoap.CONTENT),
        (payload[0], 60, aiocoap.NOT_ACCEPTABLE),
        (f"/m/{MODEL}", 65_107, aiocoap.CONTENT),
        (f"/m/{MODEL}", 60, aiocoap.CONTENT),
        (f"/m/{MODEL}", 42, aiocoap.CONTENT),
        (f"/m/{MODEL}", 50, aiocoap.NOT_ACCEPTABLE),
        ("/.well-known/core", 40, aiocoap.CONTENT),
        ("/.well-known/core", 60, aiocoap.NOT_ACCEPTABLE),
    ):
        response = await served.request(path, accept=accept)
        assert response.code is code, (path, accept)
        if code is aiocoap.CONTENT:
            assert response.opt.content_format == accept
    assert (await served.request(f"/m/{MODEL}")).opt.content_format == 65_107


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/p/0000000000000000", "there is no payload '0000000000000000'"),
        ("/p/zz", "there is no payload 'zz'"),
        ("/p/0000000000000000/more", "there is nothing at"),
        ("/m/none", "model none is not known here"),
        ("/d/dev-9/m", "nothing is assigned to device dev-9"),
        ("/d/dev-9", "a manifest is at /d/DEVICE/m"),
        ("/elsewhere", ""),
    ],
)
async def test_what_is_not_there_is_4_04_with_a_reason(served: Served, path: str, words: str) -> None:
    response = await served.request(path)

    assert response.code is aiocoap.NOT_FOUND
    assert words in response.payload.decode()


async def test_envelopes_are_no_payloads(served: Served, publishing: Publish) -> None:
    result = await publishing(1)

    response = await served.request(f"/p/{result.release.envelope_digest.hex()[:16]}")

    assert response.code is aiocoap.NOT_FOUND


async def test_model_manifest_is_the_newest_promoted_one(served: Served, storage: Storage, publishing: Publish) -> None:
    await publishing(1)
    second = await publishing(2)
    await publishing(3, promote=False)

    body = await served.fetch(f"/m/{MODEL}")

    assert body == storage.blobs.read(second.release.envelope_digest)


async def test_model_with_nothing_promoted_is_4_04(served: Served, publishing: Publish) -> None:
    await publishing(1, promote=False)

    response = await served.request(f"/m/{MODEL}")

    assert response.code is aiocoap.NOT_FOUND
    assert b"promoted" in response.payload


async def check_in(served: Served, checkin: Checkin = CHECKIN) -> Assignment:
    response = await served.request("/checkin", aiocoap.POST, messages.encode(checkin), content_format=60)
    assert response.code is aiocoap.CHANGED, response.payload
    assert response.opt.content_format == 60
    return messages.decode(Assignment, response.payload)


async def test_check_in_leads_to_the_devices_manifest(served: Served, publishing: Publish) -> None:
    result = await publishing(1)

    assignment = await check_in(served)

    assert assignment.manifest_uri is not None
    body = await served.fetch(assignment.manifest_uri)
    assert hashlib.sha256(body).digest() == result.release.envelope_digest
    assert assignment.manifest_digest == result.release.manifest_digest
    assert len(body) == assignment.size


async def test_report_is_taken_and_may_be_repeated(served: Served, storage: Storage, publishing: Publish) -> None:
    result = await publishing(1)
    await check_in(served)
    report = StatusReport(
        device_id="dev-1",
        manifest_digest=result.release.manifest_digest,
        outcome=Outcome.CONFIRMED,
        reason=0,
        detail="",
        image_digest=result.release.image_digest,
        sequence_number=1,
        slot=1,
        bytes_up=10,
        bytes_down=20,
        blocks=2,
        blocks_resent=0,
        via=None,
        duration_s=3,
        power_cuts=0,
    )

    for _ in range(2):
        response = await served.request("/report", aiocoap.POST, messages.encode(report), content_format=60)
        assert response.code is aiocoap.CHANGED

    (stored,) = await storage.database.reports()
    assert (stored.attempts, stored.release_id) == (1, result.release.id)
    assert (await check_in(served, replace(CHECKIN, image_digest=result.release.image_digest))).manifest_uri is None


async def test_check_in_may_come_in_blocks(served: Served, publishing: Publish) -> None:
    await publishing(1)
    data = messages.encode(CHECKIN)

    first = await served.request("/checkin", aiocoap.POST, data[:32], content_format=60, block1=(0, True, 1))
    last = await served.request("/checkin", aiocoap.POST, data[32:], content_format=60, block1=(1, False, 1))

    assert first.code is aiocoap.CONTINUE
    assert last.code is aiocoap.CHANGED
    assert messages.decode(Assignment, last.payload).manifest_uri == "/d/dev-1/m"


@pytest.mark.parametrize(
    ("body", "content_format", "code", "words"),
    [
        (b"\xff", 60, aiocoap.BAD_REQUEST, "checkin"),
        (b"", 60, aiocoap.BAD_REQUEST, "checkin"),
        (b"\xa0", None, aiocoap.BAD_REQUEST, "is missing"),
        (messages.encode(CHECKIN), 50, aiocoap.UNSUPPORTED_CONTENT_FORMAT, "60 (CBOR) is due"),
        (messages.encode(replace(CHECKIN, model="none")), 60, aiocoap.NOT_FOUND, "model none is not known"),
    ],
)
async def test_check_in_that_means_nothing_is_refused(
    served: Served, body: bytes, content_format: int | None, code: aiocoap.Code, words: str
) -> None:
    options: dict[str, Any] = {} if content_format is None else {"content_format": content_format}

    response = await served.request("/checkin", aiocoap.POST, body, **options)

    assert response.code is code
    assert words in response.payload.decode()
    assert b"\n" not in response.payload


async def test_other_methods_are_refused(served: Served, payload: tuple[str, bytes]) -> None:
    assert (await served.request("/checkin")).code is aiocoap.METHOD_NOT_ALLOWED
    assert (await served.request(payload[0], aiocoap.PUT, b"x")).code is aiocoap.METHOD_NOT_ALLOWED


async def test_a_bug_is_5_00_and_tells_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("coap_server.resources.payloads.one_segment", bug)

    response = await served.request("/p/00")

    assert response.code is aiocoap.INTERNAL_SERVER_ERROR
    assert response.payload == b"the server failed; its log tells why"
    assert "ZeroDivisionError" in caplog.text


async def test_damaged_artifact_is_5_00_and_named_in_the_log_only(
    served: Served, storage: Storage, payload: tuple[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path, image = payload
    storage.blobs.path(hashlib.sha256(image).digest()).write_bytes(b"short")

    response = await served.request(path)

    assert response.code is aiocoap.INTERNAL_SERVER_ERROR
    assert response.payload == b"the server cannot read its data; its log tells why"
    (record,) = [record for record in caplog.records if record.name == "coap_server.resources.view"]
    assert record.levelname == "ERROR"
    assert "is damaged" in record.getMessage()


@pytest.mark.spec("RFC 7252 5.7.2")
@pytest.mark.parametrize("extra", [(35, b"coap://other/x"), (39, b"http")])
@pytest.mark.parametrize("path", ["/checkin", "/none", ""])
async def test_this_is_no_proxy(served: Served, path: str, extra: tuple[int, bytes]) -> None:
    assert (await served.request(path, extra=extra)).code is aiocoap.PROXYING_NOT_SUPPORTED


async def test_check_in_answers_in_cbor_only(served: Served, publishing: Publish) -> None:
    await publishing(1)
    body = messages.encode(CHECKIN)

    assert (await served.request("/checkin", aiocoap.POST, body, accept=50)).code is aiocoap.NOT_ACCEPTABLE
    assert (await served.request("/checkin", aiocoap.POST, body, accept=60)).code is aiocoap.CHANGED


@pytest.mark.spec("RFC 7959 2.9.2")
async def test_body_with_a_missing_block_is_4_08(served: Served) -> None:
    await served.request("/checkin", aiocoap.POST, bytes(32), block1=(0, True, 1))

    response = await served.request("/checkin", aiocoap.POST, bytes(32), block1=(2, False, 1))

    assert response.code is aiocoap.REQUEST_ENTITY_INCOMPLETE


async def test_what_a_peer_sends_is_escaped_in_log_and_answer(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    response = await served.request("/m/x%1B%5B31m%0Aforged" + "y" * 200)

    assert response.code is aiocoap.NOT_FOUND
    assert b"\x1b" not in response.payload
    assert "\x1b" not in caplog.text
    assert r"x\x1b[31m\nforged" in response.payload.decode()


async def test_bytes_that_are_an_envelope_already_are_served_as_a_payload_too(
    served: Served, storage: Storage, bench: Bench, publishing: Publish
) -> None:
    first = await publishing(1)
    envelope = storage.blobs.read(first.release.envelope_digest)
    bench.image(2).write_bytes(envelope)

    second = await publishing(2)

    assert await served.fetch(f"/p/{second.release.image_digest.hex()[:16]}") == envelope


@pytest.mark.spec("RFC 6690 2")
async def test_directory_lists_everything(served: Served, payload: tuple[str, bytes]) -> None:
    path, image = payload

    links = (await served.fetch("/.well-known/core")).decode().split(",")

    assert f'<{path}>;rt="coap-ota.image";ct="42";sz="{len(image)}"' in links
    (manifest,) = [link for link in links if link.startswith(f"</m/{MODEL}>")]
    assert 'rt="coap-ota.manifest";ct="65107 60 42";sz="' in manifest
    assert manifest.endswith(";obs")
    assert '</checkin>;ct="60";rt="coap-ota.checkin"' in links
    assert '</report>;ct="60";rt="coap-ota.report"' in links


@pytest.mark.spec("RFC 6690 4.1")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("rt=coap-ota.manifest", ["</m/plug>"]),
        ("rt=coap-ota.re*", ["</report>"]),
        ("href=/m/*", ["</m/plug>"]),
        ("ct=65107", ["</m/plug>"]),
        ("rt=none", []),
    ],
)
async def test_directory_can_be_filtered(
    served: Served, payload: tuple[str, bytes], query: str, expected: list[str]
) -> None:
    response = await served.request("/.well-known/core", uri_query=[query])

    links = [link for link in response.payload.decode().split(",") if link]
    assert [link.partition(";")[0] for link in links] == expected


async def test_directory_comes_in_blocks_from_anywhere(served: Served, payload: tuple[str, bytes]) -> None:
    whole = await served.fetch("/.well-known/core")

    response = await served.request("/.well-known/core", block2=(2, False, 2))

    assert response.payload == whole[128:192]


@pytest.mark.spec("RFC 7641 4.2")
async def test_observer_hears_of_a_release_that_another_process_published(
    served: Served, storage: Storage, publishing: Publish
) -> None:
    first = await publishing(1)
    watcher = asyncio.create_task(served.application.watch(0.02))
    request = served.client.request(
        aiocoap.Message(code=aiocoap.GET, uri=f"{served.context.uri}/m/{MODEL}", observe=0), handle_blockwise=False
    )
    try:
        assert (await request.response).opt.etag == first.release.envelope_digest[:8]
        assert served.application.manifests.observers == 1

        second = await publishing(2)

        notification = await asyncio.wait_for(anext(aiter(request.observation)), 10)
        assert notification.opt.etag == second.release.envelope_digest[:8]
        assert notification.payload == storage.blobs.read(second.release.envelope_digest)
    finally:
        request.observation.cancel()
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


async def test_observing_what_is_not_there_is_an_error_and_no_observation(served: Served) -> None:
    request = served.client.request(
        aiocoap.Message(code=aiocoap.GET, uri=f"{served.context.uri}/m/none", observe=0), handle_blockwise=False
    )

    assert (await request.response).code is aiocoap.NOT_FOUND
    assert served.application.manifests.observers == 0
