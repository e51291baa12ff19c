import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from coap_device.boot.provisioning import COMMIT_FORMAT, Commit, Provisioning, provision, read_provisioning
from coap_device.boot.slots import SlotStore
from coap_device.boot.trailer import TrailerState
from coap_device.errors import FlashError, SlotError
from coap_device.hardware.flash import FileBacking, Flash, MemoryBacking
from coap_device.hardware.layout import Geometry, Layout
from protocol import cbor
from tests.unit.device.helpers import GEOMETRIES, SMALL, Board, again, board, cuts, flip, random_bytes, sha256

IMAGE = random_bytes(2_500)


def _record(geometry: Geometry = SMALL) -> Provisioning:
    return Provisioning(
        geometry=geometry,
        device_id="device-1",
        model="board-7",
        vendor_id=b"v" * 16,
        class_id=b"c" * 16,
        trust_anchors=(b"key one", b"key two"),
        image_digest=sha256(IMAGE),
        image_size=len(IMAGE),
    )


def _provision(device: Board) -> None:
    provision(device.flash, _record(device.layout.geometry), (IMAGE[:1_000], IMAGE[1_000:]))


@pytest.mark.parametrize("geometry", [*GEOMETRIES, Geometry(slot_size=8_192, write_unit=64), Geometry(write_unit=1)])
def test_record_is_read_without_knowing_the_geometry(geometry: Geometry) -> None:
    device = board(geometry)
    assert read_provisioning(device.backing) is None
    _provision(device)
    assert read_provisioning(device.backing) == _record(geometry)
    assert read_provisioning(device.flash) == _record(geometry)


def test_factory_image_is_confirmed_in_slot_a() -> None:
    device = board()
    _provision(device)
    slots = SlotStore(device.flash, device.layout)
    header = slots.read_header(0)
    assert header is not None
    assert (header.image_size, header.sequence_number, header.image_digest) == (2_500, 0, sha256(IMAGE))
    assert slots.trailers.read(0).state is TrailerState.CONFIRMED
    assert slots.trailers.read(1).state is TrailerState.EMPTY
    assert slots.hash_image(0, 2_500) == sha256(IMAGE)


@pytest.mark.faults
def test_cut_at_every_operation_is_not_provisioned_or_provisioned() -> None:
    seen = set()
    for device, where in cuts(_provision):
        found = read_provisioning(device.backing)
        assert found in (None, _record()), where
        seen.add(found is None)
        if found is None:
            _provision(device)
        assert read_provisioning(device.backing) == _record(), where
        slots = SlotStore(again(device).flash, device.layout)
        assert slots.trailers.read(0).state is TrailerState.CONFIRMED, where
        assert slots.hash_image(0, 2_500) == sha256(IMAGE), where
    assert seen == {True, False}


def test_device_is_provisioned_once() -> None:
    device = board()
    _provision(device)
    with pytest.raises(FlashError, match="provisioned already; remove memory"):
        _provision(device)


def test_image_that_is_not_the_one_named_is_refused_and_nothing_is_committed() -> None:
    device = board()
    with pytest.raises(SlotError, match="not the one that the provisioning record names"):
        provision(device.flash, _record(), (IMAGE, b"!"))
    assert read_provisioning(device.backing) is None


def test_too_many_trust_anchors_are_refused_with_the_limit() -> None:
    large = replace(_record(), trust_anchors=(bytes(4_096),))
    with pytest.raises(FlashError, match="the limit is 4032; fewer trust anchors"):
        provision(board().flash, large, (IMAGE,))


def test_every_bit_flip_is_damage_and_the_message_says_what_to_do() -> None:
    device = board()
    _provision(device)
    content = device.backing.snapshot()
    size = 64 + int.from_bytes(content[8:12], "little")
    for bit in range(size * 8):
        if 20 * 8 <= bit < 64 * 8:
            continue  # padding of the commit record
        with pytest.raises(FlashError, match=r"damaged flash: .*; remove memory to provision again"):
            read_provisioning(MemoryBacking(len(content), content=flip(content, bit)))


@pytest.mark.parametrize("content", [b"", b"\xff" * 10])
def test_chip_without_a_byte_written_is_not_provisioned(content: bytes) -> None:
    assert read_provisioning(MemoryBacking(len(content), content=content)) is None


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({1: (1_024, 8, 4_096)}, "provisioning.geometry: 3 sizes where 5 are due"),
        ({1: (1_000, 8, 4_096, 4_096, 2_048)}, "provisioning.geometry: geometry: sector size 1000"),
        ({}, "key 1 .geometry. is missing"),
    ],
)
def test_record_that_makes_no_sense_is_damage(payload: dict[int, tuple[int, ...]], words: str) -> None:
    data = cbor.encode(payload)
    commit = COMMIT_FORMAT.encode(Commit(length=len(data), crc=zlib.crc32(data)), 64)
    with pytest.raises(FlashError, match=words):
        read_provisioning(MemoryBacking(4_096, content=(commit + data).ljust(4_096, b"\xff")))


def test_file_that_is_something_else_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "flash.bin"
    path.write_bytes(b"#!/bin/sh\n" * 20)
    backing = FileBacking(path)
    with pytest.raises(FlashError, match=f"{path}: damaged flash: the commit record does not hold; remove {path}"):
        read_provisioning(backing)
    backing.close()


def test_file_that_was_cut_short_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "flash.bin"
    backing = FileBacking(path, Layout.of(SMALL).size)
    provision(Flash(backing, SMALL.sector_size, SMALL.write_unit), _record(), (IMAGE,))
    backing.close()
    path.write_bytes(path.read_bytes()[:-1_024])
    backing = FileBacking(path)
    with pytest.raises(FlashError, match=r"bytes where .* are due"):
        read_provisioning(backing)
    backing.close()
