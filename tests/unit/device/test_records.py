import pytest

from coap_device.boot.envelopes import ENVELOPE_FORMAT, EnvelopeHeader
from coap_device.boot.ledger import LEDGER_FORMAT, LedgerKind, LedgerRecord
from coap_device.boot.records import RecordFormat, RecordLog
from coap_device.boot.slots import HEADER_FORMAT, SlotHeader
from coap_device.boot.trailer import TRAILER_FORMAT, TrailerRecord, TrailerState
from coap_device.hardware.layout import Geometry
from tests.unit.device.helpers import GEOMETRIES, Board, again, board, cuts, flip

RECORDS = [
    (
        TRAILER_FORMAT,
        TrailerRecord(counter=7, state=TrailerState.TRIAL, attempts=1, manifest_digest=bytes(range(32))),
    ),
    (LEDGER_FORMAT, LedgerRecord(kind=LedgerKind.REPORTED, value=2, digest=bytes(range(32)))),
    (
        HEADER_FORMAT,
        SlotHeader(image_size=9, sequence_number=1 << 40, image_digest=b"i" * 32, manifest_digest=b"e" * 32),
    ),
    (ENVELOPE_FORMAT, EnvelopeHeader(length=300, digest=b"d" * 32)),
]


@pytest.mark.parametrize(("form", "record"), RECORDS)
@pytest.mark.parametrize("unit", [1, 8, 32])
def test_record_comes_back_and_fills_whole_units(form: RecordFormat[object], record: object, unit: int) -> None:
    data = form.encode(record, unit)
    assert len(data) == form.size(unit)
    assert len(data) % unit == 0
    assert form.decode(data) == record


@pytest.mark.parametrize(("form", "record"), RECORDS)
def test_every_bit_flip_is_detected(form: RecordFormat[object], record: object) -> None:
    data = form.encode(record, 1)
    for bit in range(len(data) * 8):
        assert form.decode(flip(data, bit)) is None


@pytest.mark.parametrize(("form", "record"), RECORDS)
def test_every_torn_prefix_is_detected(form: RecordFormat[object], record: object) -> None:
    data = form.encode(record, 1)
    for size in range(len(data)):
        assert form.decode(data[:size]) is None
        assert form.decode(data[:size].ljust(len(data), b"\xff")) is None


def test_value_that_an_enumeration_does_not_know_is_no_record() -> None:
    stranger = TrailerRecord(counter=1, state=99, attempts=0, manifest_digest=bytes(32))  # type: ignore[arg-type]
    assert TRAILER_FORMAT.decode(TRAILER_FORMAT.encode(stranger, 8)) is None


def _log(device: Board) -> RecordLog[LedgerRecord]:
    region = device.layout.ledger[0]
    return RecordLog(device.flash, region.offset, region.size, LEDGER_FORMAT)


def _record(value: int) -> LedgerRecord:
    return LedgerRecord(kind=LedgerKind.REVERTED, value=value, digest=bytes(32))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_log_takes_records_until_it_is_full(geometry: Geometry) -> None:
    device = board(geometry)
    log = _log(device)
    for value in range(log.capacity):
        assert log.free == log.capacity - value
        assert log.append(_record(value))
    assert log.free == 0
    assert not log.append(_record(0))
    assert [record.value for record in log.read_all()] == list(range(log.capacity))


def test_torn_record_is_skipped_and_the_next_goes_behind_it() -> None:
    def scenario(device: Board) -> None:
        for value in range(3):
            _log(device).append(_record(value))

    for device, where in cuts(scenario):
        before = [record.value for record in _log(device).read_all()]
        assert before == list(range(len(before))), where
        assert _log(device).append(_record(9)), where
        assert [record.value for record in _log(again(device)).read_all()] == [*before, 9], where


def test_log_behind_a_torn_erase_is_full_rather_than_mixed() -> None:
    device = board()
    log = _log(device)
    while log.append(_record(1)):
        pass
    region = device.layout.ledger[0]
    device.backing.write(region.offset, b"\xff" * (region.size // 2))
    assert log.free == 0
