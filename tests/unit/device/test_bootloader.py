import pytest

from coap_device.boot.bootloader import Bootloader, BootResult, VerifiedImage
from coap_device.boot.envelopes import EnvelopeStore
from coap_device.boot.ledger import Ledger
from coap_device.boot.provisioning import Provisioning, provision
from coap_device.boot.slots import SlotHeader, SlotStore
from coap_device.boot.store import PayloadStore
from coap_device.boot.trailer import TrailerState
from coap_device.errors import BootError, SlotError
from coap_device.hardware.layout import Geometry
from coap_device.hardware.power import ATTEMPT_COUNTED, BETWEEN_TRAILERS, CutMode, PowerCut
from protocol.errors import AuthenticityError
from tests.unit.device.helpers import GEOMETRIES, SMALL, Board, again, board, cuts, flip, random_bytes, sha256

OLD, NEW, NEWER = random_bytes(2_000, 1), random_bytes(2_500, 2), random_bytes(1_200, 3)
IMAGES = {sha256(image): image for image in (OLD, NEW, NEWER)}


def _envelope(image: bytes, sequence_number: int) -> bytes:
    """A stand-in for a signed envelope: what the fake verification believes."""
    return sha256(image) + len(image).to_bytes(4, "big") + sequence_number.to_bytes(8, "big")


class Device:
    """The parts of one device in one power domain, with a verification that hashes instead of checking signatures."""

    def __init__(self, device: Board) -> None:
        self.board = device
        self.slots = SlotStore(device.flash, device.layout)
        self.ledger = Ledger(device.flash, device.layout)
        self.envelopes = EnvelopeStore(device.flash, device.layout)
        self.bootloader = Bootloader(self.slots, self.ledger, self.verify)

    def verify(self, slot: int) -> VerifiedImage:
        header = self.slots.read_header(slot)
        if header is None:
            raise SlotError("no header")
        envelope = self.envelopes.read(slot) if header.manifest_digest != bytes(32) else _envelope(OLD, 0)
        if envelope is None or (header.manifest_digest != bytes(32) and sha256(envelope) != header.manifest_digest):
            raise AuthenticityError("the envelope is not the one of the header")
        size, sequence = int.from_bytes(envelope[32:36], "big"), int.from_bytes(envelope[36:44], "big")
        if self.slots.hash_image(slot, size) != envelope[:32]:
            raise AuthenticityError("image digest")
        return VerifiedImage(
            image_digest=envelope[:32],
            size=size,
            sequence_number=sequence,
            manifest_digest=None if header.manifest_digest == bytes(32) else sha256(envelope),
        )

    def boot(self) -> BootResult:
        """Boot, and check that nothing unverified ever runs."""
        result = self.bootloader.boot()
        image = self.slots.read_image(result.slot, 0, result.size)
        assert IMAGES[result.image_digest] == image
        return result

    def install(self, image: bytes, sequence_number: int, running: int) -> int:
        """Do what the platform does for one update and return the slot; every step is idempotent."""
        slot = 1 - running
        envelope = _envelope(image, sequence_number)
        header = SlotHeader(
            image_size=len(image),
            sequence_number=sequence_number,
            image_digest=sha256(image),
            manifest_digest=sha256(envelope),
        )
        if self.slots.trailers.read(slot).manifest_digest != header.manifest_digest:
            self.slots.invalidate(slot)
            self._fetch(image, slot)
            self.envelopes.write(slot, envelope)
        self.bootloader.activate(slot, header)
        return slot

    def _fetch(self, image: bytes, slot: int) -> None:
        layout = self.board.layout
        store = PayloadStore(self.board.flash, layout.slots[slot].image, layout.journal, layout.scratch)
        if store.is_verified(sha256(image), len(image)):
            return
        if store.resume(sha256(image)) is None:
            store.begin(store.make_header(digest=sha256(image), size=len(image), granule=1_024))
        for offset in range(0, len(image), 1_024):
            store.put(offset, image[offset : offset + 1_024])
        assert store.complete()


def _factory(geometry: Geometry = SMALL) -> Board:
    device = board(geometry)
    record = Provisioning(
        geometry=geometry,
        device_id="d",
        model="m",
        vendor_id=bytes(16),
        class_id=bytes(16),
        trust_anchors=(),
        image_digest=sha256(OLD),
        image_size=len(OLD),
    )
    provision(device.flash, record, (OLD,))
    return device


def _update(device: Board, image: bytes = NEW, sequence_number: int = 5) -> None:
    """Boot until ``image`` is confirmed: update, reboot, confirm."""
    for _ in range(3):
        parts = Device(again(device))
        running = parts.boot()
        if running.image_digest == sha256(image):
            parts.bootloader.confirm(running.slot)
            return
        parts.install(image, sequence_number, running.slot)
    raise AssertionError("the update does not come to its end")


def test_empty_device_does_not_boot() -> None:
    with pytest.raises(BootError, match="no slot holds an image that may run: both are empty"):
        Device(board()).boot()


def test_factory_image_boots() -> None:
    result = Device(_factory()).boot()
    assert (result.slot, result.image_digest, result.size, result.sequence_number) == (0, sha256(OLD), 2_000, 0)
    assert (result.manifest_digest, result.state, result.reverted) == (None, TrailerState.CONFIRMED, None)
    assert result.log == ("slot A: booted the confirmed image",)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_two_updates_change_the_slots_and_raise_the_floor(geometry: Geometry) -> None:
    device = _factory(geometry)
    for image, sequence, slot in ((NEW, 5, 1), (NEWER, 9, 0)):
        _update(device, image, sequence)
        parts = Device(again(device))
        result = parts.boot()
        assert (result.slot, result.image_digest, result.state) == (slot, sha256(image), TrailerState.CONFIRMED)
        assert result.manifest_digest == sha256(_envelope(image, sequence))
        assert parts.ledger.floor() == sequence


def test_trial_image_reverts_after_its_attempts() -> None:
    device = _factory()
    parts = Device(device)
    parts.install(NEW, 5, parts.boot().slot)
    for attempt in (1, 2, 3):
        result = Device(again(device)).boot()
        assert (result.slot, result.state) == (1, TrailerState.TRIAL)
        assert f"trial boot {attempt} of 3" in result.log[-1]
    last = Device(again(device))
    result = last.boot()
    digest = sha256(_envelope(NEW, 5))
    assert (result.slot, result.image_digest, result.reverted) == (0, sha256(OLD), digest)
    assert "not confirmed after 3 trial boots" in result.log[0]
    assert last.slots.trailers.read(1).state is TrailerState.REVERTED
    assert last.ledger.is_reverted(digest)
    assert last.ledger.floor() == 0
    assert Device(again(device)).boot().reverted is None


def test_attempt_is_counted_before_the_jump() -> None:
    device = _factory()
    parts = Device(device)
    parts.install(NEW, 5, 0)
    for _ in range(3):
        device.power.cut_next(ATTEMPT_COUNTED)
        with pytest.raises(PowerCut):
            Device(again(device)).boot()
    assert Device(again(device)).boot().slot == 0


def test_trial_image_that_does_not_verify_never_runs() -> None:
    device = _factory()
    Device(device).install(NEW, 5, 0)
    rotten = board(content=flip(device.backing.snapshot(), device.layout.slots[1].image.offset * 8 + 100))
    result = Device(rotten).boot()
    assert (result.slot, result.reverted) == (0, sha256(_envelope(NEW, 5)))
    assert "does not verify: image digest" in result.log[0]


def test_envelope_that_the_trailer_does_not_name_never_runs() -> None:
    device = _factory()
    parts = Device(device)
    parts.install(NEW, 5, 0)
    other = _envelope(NEW, 6)
    parts.envelopes.write(1, other)
    header = parts.slots.read_header(1)
    assert header is not None
    changed = SlotHeader(
        image_size=header.image_size, sequence_number=6, image_digest=header.image_digest, manifest_digest=sha256(other)
    )
    parts.slots.require_empty = lambda slot: None  # type: ignore[method-assign]
    parts.slots.write_header(1, changed)
    result = Device(again(device)).boot()
    assert result.slot == 0
    assert "not the one that the trailer names" in result.log[0]


def test_confirmed_image_that_rots_is_passed_over_for_the_other_slot() -> None:
    device = _factory()
    _update(device)
    rotten = board(content=flip(device.backing.snapshot(), device.layout.slots[1].image.offset * 8))
    parts = Device(rotten)
    result = parts.boot()
    assert (result.slot, result.image_digest, result.reverted) == (0, sha256(OLD), None)
    assert "the confirmed image does not verify" in result.log[0]
    assert parts.slots.trailers.read(1).state is TrailerState.CONFIRMED


def test_device_with_two_rotten_images_does_not_boot() -> None:
    device = _factory()
    _update(device)
    content = device.backing.snapshot()
    for slot in device.layout.slots:
        content = flip(content, slot.image.offset * 8)
    with pytest.raises(BootError, match=r"slot B: .*does not verify.*slot A: .*does not verify"):
        Device(board(content=content)).boot()


def test_revert_by_the_firmware_is_idempotent_and_final() -> None:
    device = _factory()
    parts = Device(device)
    parts.install(NEW, 5, 0)
    parts = Device(again(device))
    assert parts.boot().slot == 1
    parts.bootloader.revert(1)
    parts.bootloader.revert(1)
    parts = Device(again(device))
    assert parts.boot().slot == 0
    assert parts.ledger.reverted_digests() == (sha256(_envelope(NEW, 5)),)
    with pytest.raises(SlotError, match="slot A: cannot revert while it is confirmed"):
        parts.bootloader.revert(0)
    with pytest.raises(SlotError, match="slot B: cannot confirm while it is reverted"):
        parts.bootloader.confirm(1)


def test_confirm_needs_a_header() -> None:
    with pytest.raises(SlotError, match="the slot header is damaged"):
        Device(board()).bootloader.confirm(0)


def test_activate_needs_an_invalidated_slot_and_is_idempotent() -> None:
    device = _factory()
    parts = Device(device)
    slot = parts.install(NEW, 5, 0)
    operations = device.power.operations
    parts.install(NEW, 5, 0)
    assert device.power.operations == operations
    header = parts.slots.read_header(slot)
    assert header is not None
    with pytest.raises(SlotError, match="slot A: is confirmed; invalidate it"):
        parts.bootloader.activate(0, header)


def test_trial_limit_of_zero_is_refused() -> None:
    parts = Device(board())
    with pytest.raises(SlotError, match="trial limit of 0"):
        Bootloader(parts.slots, parts.ledger, parts.verify, trial_limit=0)


@pytest.mark.faults
def test_update_cut_at_every_operation_always_boots_and_ends_on_the_new_image() -> None:
    content = _factory().backing.snapshot()
    uncut = board(content=content)
    _update(uncut)
    seen = set()
    for device, where in cuts(_update, content=content):
        result = Device(again(device)).boot()
        seen.add((result.image_digest, result.state))
        _update(device)
        parts = Device(again(device))
        result = parts.boot()
        assert (result.image_digest, result.state) == (sha256(NEW), TrailerState.CONFIRMED), where
        assert parts.ledger.floor() == 5, where
        assert parts.ledger.reverted_digests() == (), where
    assert seen == {
        (sha256(OLD), TrailerState.CONFIRMED),
        (sha256(NEW), TrailerState.TRIAL),
        (sha256(NEW), TrailerState.CONFIRMED),
    }


@pytest.mark.faults
@pytest.mark.parametrize("mode", list(CutMode))
def test_update_cut_twice_always_boots_and_ends_on_the_new_image(mode: CutMode) -> None:
    content = _factory().backing.snapshot()
    for number, (device, where) in enumerate(cuts(_update, content=content, modes=(mode,))):
        if number % 4 or Device(device).ledger.floor() == 5:
            continue  # every fourth first cut; once the floor is raised nothing is left to cut
        for second, where_again in cuts(_update, content=device.backing.snapshot(), modes=(mode,)):
            _update(second)
            result = Device(again(second)).boot()
            assert (result.image_digest, result.state) == (sha256(NEW), TrailerState.CONFIRMED), (where, where_again)


@pytest.mark.faults
def test_revert_cut_at_every_operation_ends_on_the_old_image() -> None:
    start = _factory()
    parts = Device(start)
    parts.install(NEW, 5, 0)
    assert Device(again(start)).boot().slot == 1

    for device, where in cuts(lambda b: Device(b).bootloader.revert(1), content=start.backing.snapshot()):
        first = Device(device).boot()
        if first.slot == 1:
            assert not Device(again(device)).ledger.is_reverted(sha256(_envelope(NEW, 5))), where
            Device(again(device)).bootloader.revert(1)
        last = Device(again(device))
        assert last.boot().slot == 0, where
        assert last.ledger.is_reverted(sha256(_envelope(NEW, 5))), where


@pytest.mark.faults
def test_confirm_cut_between_the_trailers_is_repaired_and_raises_the_floor() -> None:
    device = _factory()
    parts = Device(device)
    parts.install(NEW, 5, 0)
    parts = Device(again(device))
    parts.boot()
    device.power.cut_next(BETWEEN_TRAILERS)
    with pytest.raises(PowerCut):
        parts.bootloader.confirm(1)
    parts = Device(again(device))
    assert parts.ledger.floor() == 0
    result = parts.boot()
    assert (result.slot, result.state) == (1, TrailerState.CONFIRMED)
    assert "trailer copies differed" in result.log[0]
    assert parts.ledger.floor() == 5
