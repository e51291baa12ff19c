import zlib
from typing import Any

import pytest

from protocol.transfer.journal import (
    HEADER_SIZE,
    JournalHeader,
    RecordKind,
    decode_header,
    encode_header,
    encode_record,
    record_size,
    replay,
)

HEADER = JournalHeader(target=4_096, etag=b"etag", digest=bytes(range(32)), size=1_000, granule=64)


def _journal(*records: tuple[RecordKind, int], unit: int = 8, header: JournalHeader = HEADER) -> bytes:
    return encode_header(header, unit) + b"".join(encode_record(kind, num, header, unit) for kind, num in records)


@pytest.mark.parametrize("etag", [b"", b"\0", b"12345678"])
@pytest.mark.parametrize("unit", [1, 8, 32, 64])
def test_header_comes_back_in_whole_units(etag: bytes, unit: int) -> None:
    header = JournalHeader(target=0, etag=etag, digest=b"d" * 32, size=1 << 31, granule=1_024)
    data = encode_header(header, unit)
    assert len(data) == HEADER_SIZE
    assert decode_header(data) == header


def test_every_bit_flip_and_torn_prefix_of_a_header_is_detected() -> None:
    data = encode_header(HEADER, 8)
    for bit in range(61 * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << (bit % 8)
        assert decode_header(bytes(changed)) is None
    for size in range(61):
        assert decode_header(data[:size]) is None
        assert decode_header(data[:size].ljust(64, b"\xff")) is None


@pytest.mark.parametrize(("offset", "value"), [(0, b"?"), (12, b"\x21"), (16, b"\x09")])
def test_header_that_makes_no_sense_is_none_though_its_crc_holds(offset: int, value: bytes) -> None:
    body = bytearray(encode_header(HEADER, 8)[:57])
    body[offset : offset + 1] = value
    assert decode_header(bytes(body) + zlib.crc32(body).to_bytes(4, "little")) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"target": -1},
        {"target": 1 << 32},
        {"size": 0},
        {"size": 1 << 32},
        {"etag": bytes(9)},
        {"digest": bytes(31)},
        {"granule": 32},
        {"granule": 96},
        {"size": (1 << 30) + 1},
    ],
)
def test_header_without_an_encoding_is_refused(fields: dict[str, Any]) -> None:
    good: dict[str, Any] = {"target": 0, "etag": b"", "digest": bytes(32), "size": 1, "granule": 64}
    with pytest.raises(ValueError, match=r"target|ETag|granule"):
        JournalHeader(**(good | fields))


def test_last_granule_may_be_short() -> None:
    assert HEADER.count == 16
    assert HEADER.extent(0) == range(0, 64)
    assert HEADER.extent(15) == range(960, 1_000)


@pytest.mark.parametrize("unit", [1, 8, 32])
def test_replay_tells_what_was_recorded_and_where_to_go_on(unit: int) -> None:
    data = _journal((RecordKind.RECEIVED, 3), (RecordKind.RECEIVED, 0), (RecordKind.COMPLETE, 0), unit=unit)
    assert len(data) == HEADER_SIZE + 3 * record_size(unit)
    state = replay(data.ljust(1_024, b"\xff"), HEADER, unit)
    assert state.received == {0, 3}
    assert state.complete
    assert state.rebuilding is None
    assert state.next_offset == len(data)


def test_rebuild_is_open_until_it_is_rebuilt() -> None:
    first = replay(_journal((RecordKind.REBUILD, 2)), HEADER, 8)
    second = replay(_journal((RecordKind.REBUILD, 2), (RecordKind.REBUILT, 2)), HEADER, 8)
    assert (first.rebuilding, second.rebuilding) == (2, None)


def test_torn_records_are_skipped_and_the_next_goes_behind_them() -> None:
    whole = encode_record(RecordKind.RECEIVED, 5, HEADER, 8)
    for size in range(1, 8):
        data = _journal((RecordKind.RECEIVED, 1)) + whole[:size].ljust(8, b"\xff") + whole + b"\xff" * 64
        state = replay(data, HEADER, 8)
        assert state.received == {1, 5}
        assert state.next_offset == HEADER_SIZE + 24


def test_every_bit_flip_in_a_record_is_detected() -> None:
    for bit in range(64):
        data = bytearray(_journal((RecordKind.RECEIVED, 5)))
        data[HEADER_SIZE + bit // 8] ^= 1 << (bit % 8)
        state = replay(bytes(data), HEADER, 8)
        assert not state.received
        assert state.next_offset == HEADER_SIZE + 8


def test_record_of_another_journal_does_not_count() -> None:
    other = JournalHeader(target=4_096, etag=b"new", digest=bytes(range(32)), size=1_000, granule=64)
    data = encode_header(HEADER, 8) + encode_record(RecordKind.RECEIVED, 1, other, 8)
    assert not replay(data, HEADER, 8).received


def test_granule_beyond_the_payload_does_not_count() -> None:
    assert not replay(_journal((RecordKind.RECEIVED, 16)), HEADER, 8).received


def test_number_beyond_24_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="24 bits"):
        encode_record(RecordKind.RECEIVED, 1 << 24, HEADER, 8)
