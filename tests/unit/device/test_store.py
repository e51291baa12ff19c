import random
from dataclasses import dataclass, field

import pytest

from coap_device.boot.store import PayloadStore
from coap_device.errors import FlashError, SlotError
from coap_device.hardware.layout import Geometry
from coap_device.hardware.power import CutMode, PowerCut, PowerPlan
from protocol.transfer.journal import JournalHeader, RecordKind, encode_record, record_size
from tests.unit.device.helpers import GEOMETRIES, SMALL, Board, again, board, cuts, flip, random_bytes, sha256


def _store(device: Board) -> PayloadStore:
    return PayloadStore(device.flash, device.layout.staging, device.layout.journal, device.layout.scratch)


def _header(store: PayloadStore, payload: bytes, granule: int = 128) -> JournalHeader:
    return store.make_header(digest=sha256(payload), size=len(payload), granule=granule, etag=b"etag")


@dataclass
class Download:
    """Fetches ``payload`` block by block in a shuffled order, going on where the journal says."""

    payload: bytes
    block: int = 128
    granule: int = 128
    seed: int = 1
    acknowledged: set[int] = field(default_factory=set)
    rebuilds: int = 0
    puts: int = 0

    def __call__(self, device: Board) -> None:
        """Run to the end; the set of acknowledged blocks is that of this run."""
        self.acknowledged = set()
        store = _store(device)
        if store.is_verified(sha256(self.payload), len(self.payload)):
            return
        try:
            self._fetch(store)
        finally:
            self.rebuilds += store.rebuilds

    def _fetch(self, store: PayloadStore) -> None:
        resumed = store.resume(sha256(self.payload))
        if resumed is None:
            store.begin(_header(store, self.payload, self.granule))
        have = {at for extent in resumed.ranges for at in extent} if resumed else set()
        size, step = len(self.payload), self.block
        # A cut within the records of one block can leave it in place in part.
        offsets = [at for at in range(0, size, step) if not have.issuperset(range(at, min(at + step, size)))]
        random.Random(self.seed).shuffle(offsets)
        for offset in offsets:
            self.puts += 1
            store.put(offset, self.payload[offset : offset + self.block])
            self.acknowledged.add(offset)
        assert store.complete()


def _recorded(device: Board, payload: bytes) -> set[int]:
    """Return every payload offset that the journal vouches for, after checking that the bytes are there."""
    store = _store(device)
    resumed = store.resume(sha256(payload))
    if resumed is None:
        return set()
    for extent in resumed.ranges:
        assert store.read(extent.start, len(extent)) == payload[extent.start : extent.stop]
    return {at for extent in resumed.ranges for at in extent}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("block", "granule"), [(64, 64), (16, 64), (32, 128), (256, 64), (1_024, 1_024), (1_024, 256)])
def test_blocks_in_any_order_make_the_payload(geometry: Geometry, block: int, granule: int) -> None:
    device = board(geometry)
    payload = random_bytes(3_001)
    Download(payload, block=block, granule=granule)(device)
    assert _store(device).read(0, len(payload)) == payload
    assert _store(again(device)).is_verified(sha256(payload), len(payload))


def test_whole_target_fits_with_the_smallest_granule() -> None:
    device = board()
    payload = random_bytes(SMALL.staging_size)
    Download(payload, block=64, granule=64)(device)
    assert _store(again(device)).is_verified(sha256(payload), len(payload))


def test_store_without_a_transfer_takes_nothing() -> None:
    store = _store(board())
    assert store.resume(bytes(32)) is None
    assert store.header is None
    assert not store.is_whole
    with pytest.raises(SlotError, match="no transfer is open"):
        store.put(0, b"x")
    with pytest.raises(SlotError, match="no transfer is open"):
        store.complete()


def test_bytes_beyond_the_payload_are_refused() -> None:
    store = _store(board())
    store.begin(_header(store, bytes(100)))
    with pytest.raises(SlotError, match="2 bytes at 99: the payload has 100"):
        store.put(99, b"xy")
    with pytest.raises(SlotError, match="the region has 4096"):
        store.read(4_000, 97)


def test_header_that_does_not_fit_the_target_is_refused() -> None:
    store = _store(board())
    with pytest.raises(SlotError, match="the payload has 4097 bytes, the limit is 4096"):
        store.make_header(digest=bytes(32), size=4_097, granule=64)
    with pytest.raises(SlotError, match="granule of 2048 bytes"):
        store.make_header(digest=bytes(32), size=4_096, granule=2_048)
    with pytest.raises(SlotError, match="is for the region at 0x1"):
        store.begin(JournalHeader(target=1, etag=b"", digest=bytes(32), size=1, granule=64))


def test_end_needs_every_granule() -> None:
    store = _store(board())
    store.begin(_header(store, bytes(300)))
    store.put(0, bytes(256))
    with pytest.raises(SlotError, match="1 of 3 granules are missing"):
        store.complete()


def test_wrong_payload_is_thrown_away() -> None:
    device = board()
    store = _store(device)
    store.begin(_header(store, bytes(300)))
    store.put(0, bytes(299) + b"!")
    assert not store.complete()
    assert store.header is None
    assert _store(again(device)).resume(sha256(bytes(300))) is None


def test_block_put_twice_writes_nothing() -> None:
    device = board()
    store = _store(device)
    store.begin(_header(store, bytes(300)))
    store.put(0, bytes(128))
    operations = device.power.operations
    store.put(0, bytes(128))
    assert device.power.operations == operations


def test_journal_belongs_to_one_digest_and_one_target() -> None:
    device = board()
    payload = random_bytes(500)
    Download(payload)(device)
    other = PayloadStore(device.flash, device.layout.slots[1].image, device.layout.journal, device.layout.scratch)
    assert other.resume(sha256(payload)) is None
    assert not other.is_verified(sha256(payload), 500)
    assert _store(device).resume(sha256(b"another")) is None
    assert not _store(device).is_verified(sha256(payload), 499)
    found = _store(device).resume(sha256(payload))
    assert found is not None
    operations = device.power.operations
    again_store = _store(device)
    again_store.resume(sha256(payload))
    assert again_store.complete()
    assert device.power.operations == operations
    assert (found.complete, found.size, found.ranges, found.header.etag) == (True, 500, (range(500),), b"etag")


def test_unfinished_or_changed_payload_is_not_verified() -> None:
    device = board()
    payload = random_bytes(500)
    store = _store(device)
    store.begin(_header(store, payload))
    store.put(0, payload)
    assert not store.is_verified(sha256(payload), 500)
    assert store.complete()
    rotten = board(content=flip(device.backing.snapshot(), device.layout.staging.offset * 8 + 5))
    assert not _store(rotten).is_verified(sha256(payload), 500)


def test_discard_forgets_the_transfer() -> None:
    device = board()
    Download(random_bytes(500))(device)
    _store(device).discard()
    assert device.flash.is_erased(device.layout.journal.offset, device.layout.journal.size)


def test_begin_erases_only_what_is_not_erased() -> None:
    device = board()
    Download(random_bytes(1_500))(device)
    erases = device.flash.statistics.erases
    store = _store(device)
    store.begin(_header(store, random_bytes(4_000, 2)))
    assert device.flash.statistics.erases - erases == 3  # two sectors of the target, one of the journal


@pytest.mark.faults
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("block", "granule"), [(128, 128), (256, 64)])
def test_cut_at_every_operation_loses_at_most_the_block_in_hand(geometry: Geometry, block: int, granule: int) -> None:
    old, payload = random_bytes(3_000, 1), random_bytes(1_500, 2)
    start = board(geometry)
    Download(old)(start)
    download = Download(payload, block=block, granule=granule)
    rebuilds = 0
    for device, where in cuts(download, geometry=geometry, content=start.backing.snapshot()):
        acknowledged = {at for first in download.acknowledged for at in range(first, min(first + block, len(payload)))}
        recorded = _recorded(device, payload)
        assert acknowledged <= recorded, where
        # beyond what was acknowledged there can only be the block that was in hand
        assert len(recorded - acknowledged) <= block, where
        rest = Download(payload, block=block, granule=granule, seed=2)
        rest(device)
        assert _store(device).read(0, len(payload)) == payload, where
        assert _store(again(device)).is_verified(sha256(payload), len(payload)), where
        rebuilds += rest.rebuilds
    assert rebuilds > 0, "no unit was torn"


@pytest.mark.faults
def test_cut_again_at_every_operation_of_the_recovery() -> None:
    payload = random_bytes(1_100)
    download = Download(payload, block=256, granule=256)
    open_rebuilds = 0
    for device, where in cuts(download, modes=(CutMode.TORN,)):
        if not device.flash.is_erased(device.layout.staging.offset, 2_048):
            content = device.backing.snapshot()
            if _store(device).is_verified(sha256(payload), len(payload)):
                continue
            rest = Download(payload, block=256, granule=256, seed=2)
            for second, where_again in cuts(rest, content=content):
                last = _store(second)
                resumed = last.resume(sha256(payload))
                open_rebuilds += last.rebuilds
                assert resumed is not None, (where, where_again)
                _recorded(again(second), payload)
                Download(payload, block=256, granule=256)(again(second))
                assert last.read(0, len(payload)) == payload, (where, where_again)
    assert open_rebuilds > 0, "no rebuild was cut"


@pytest.mark.faults
def test_many_cuts_in_one_transfer_end_on_the_whole_payload() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        payload = random_bytes(4_000, seed)
        plan = PowerPlan(rng.sample(range(150), 8), rng.choice(list(CutMode)))
        device = board(power=plan)
        download = Download(payload, seed=seed)
        while True:
            try:
                download(device)
                break
            except PowerCut:
                device = again(device)
        assert len(plan.cuts) == 8 - len(plan.cut_at), seed
        assert plan.cuts, seed
        assert download.puts <= 32 + len(plan.cuts), seed
        assert _store(device).read(0, 4_000) == payload, seed


def test_cut_in_between_small_blocks_loses_only_granules_that_were_not_whole() -> None:
    device = board()
    payload = random_bytes(256)
    store = _store(device)
    store.begin(_header(store, payload, granule=64))
    for offset in range(0, 144, 16):
        store.put(offset, payload[offset : offset + 16])
    found = _store(again(device)).resume(sha256(payload))
    assert found is not None
    assert found.ranges == (range(128),)


def _fill_journal(device: Board, header: JournalHeader, free: int) -> None:
    step = record_size(device.flash.write_unit)
    used = 64
    while used + (free + 1) * step <= device.layout.journal.size:
        data = encode_record(RecordKind.RECEIVED, 0, header, device.flash.write_unit)
        device.flash.write(device.layout.journal.offset + used, data)
        used += step


def test_full_journal_costs_resumption_but_not_the_transfer(caplog: pytest.LogCaptureFixture) -> None:
    device = board()
    payload = random_bytes(300)
    store = _store(device)
    header = _header(store, payload)
    store.begin(header)
    store.put(0, payload[:128])
    store._next = device.layout.journal.size
    store.put(128, payload[128:])
    assert store.complete()
    assert "progress is no longer recorded" in caplog.text
    assert not store.is_verified(sha256(payload), 300)


def test_journal_without_room_for_a_rebuild_is_not_resumed() -> None:
    device = board()
    payload = random_bytes(300)
    store = _store(device)
    header = _header(store, payload)
    store.begin(header)
    _fill_journal(device, header, free=3)
    assert _store(device).resume(sha256(payload)) is None


def test_torn_sector_without_room_in_the_journal_begins_again() -> None:
    device = board()
    payload = random_bytes(300)
    store = _store(device)
    store.begin(_header(store, payload))
    device.flash.write(device.layout.staging.offset, b"torn unit"[:8])
    store._next = device.layout.journal.size - 8
    with pytest.raises(FlashError, match="must begin again"):
        store.put(0, payload[:128])
    assert store.header is None
    Download(payload)(again(device))
    assert _store(device).read(0, 300) == payload
