"""Who gets what at check-in, as a table."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from coap_server.app import Storage
from coap_server.errors import ConflictError, InputError, NotFoundError
from coap_server.services.assign import MAX_ATTEMPTS, Assigner, assign, choose, promote
from coap_server.services.reports import Reporter
from coap_server.store.base import Device, Profile, Release, Report
from protocol.errors import REASON_CONDITION_FAILED, REASON_OPERATION_FAILED
from protocol.messages import Checkin, Outcome, StatusReport
from tests.unit.server.conftest import MODEL, Publish

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def image(number: int) -> bytes:
    return bytes([number]) * 32


def envelope(number: int) -> bytes:
    return bytes([100 + number]) * 32


def release(number: int, image_b: bytes | None = None) -> Release:
    return Release(
        id=number,
        model_id=1,
        version=f"{number}.0",
        sequence_number=number,
        profile=Profile.SUIT,
        image_digest=image(number),
        image_size=1_000,
        image_b_digest=image_b,
        envelope_digest=envelope(number),
        envelope_size=500,
        manifest_digest=envelope(number),
        promoted=True,
        created_at=NOW,
    )


def device(running: int, sequence_number: int | None = None) -> Device:
    return Device(
        id="dev-1",
        model_id=1,
        image_digest=image(running),
        sequence_number=running if sequence_number is None else sequence_number,
        slot=0,
        trial=False,
        last_seen_at=NOW,
        assigned_release_id=None,
        offered_release_id=None,
    )


def report(of: int, outcome: Outcome, reason: int = REASON_OPERATION_FAILED, attempts: int = 1) -> Report:
    return Report(
        device_id="dev-1",
        manifest_digest=envelope(of),
        release_id=of,
        outcome=outcome,
        reason=reason,
        detail="",
        image_digest=image(1),
        sequence_number=1,
        slot=0,
        bytes_up=0,
        bytes_down=0,
        blocks=0,
        blocks_resent=0,
        via=None,
        duration_s=0,
        power_cuts=0,
        attempts=attempts,
        received_at=NOW,
    )


FAILED_FOR_GOOD = report(2, Outcome.FAILED, REASON_CONDITION_FAILED)
CASES: dict[str, tuple[Device, Release | None, Release | None, Sequence[Report], int | None]] = {
    "older device gets the newest": (device(1), None, release(2), (), 2),
    "device on the newest gets nothing": (device(2), None, release(2), (), None),
    "device on the slot B image of the newest gets nothing": (device(3), None, release(2, image(3)), (), None),
    "nothing promoted, nothing offered": (device(1), None, None, (), None),
    "newer device is not taken back": (device(3), None, release(2), (), None),
    "unknown image of the same sequence number gets the newest": (device(9, 2), None, release(2), (), 2),
    "assigned goes before the newest": (device(1), release(2), release(3), (), 2),
    "assigned may be older: the device decides": (device(3), release(2), release(3), (), 2),
    "device on the assigned one is not given the newest": (device(2), release(2), release(3), (), None),
    "reverted is not offered again": (device(1), None, release(2), (report(2, Outcome.REVERTED),), None),
    "refused is not offered again": (device(1), None, release(2), (report(2, Outcome.REFUSED),), None),
    "assigned and refused is not offered again": (
        device(1),
        release(2),
        release(3),
        (report(2, Outcome.REFUSED),),
        None,
    ),
    "failed for good is not offered again": (device(1), None, release(2), (FAILED_FOR_GOOD,), None),
    "failed on the way is offered again": (device(1), None, release(2), (report(2, Outcome.FAILED),), 2),
    "failed on the way too often is not": (
        device(1),
        None,
        release(2),
        (report(2, Outcome.FAILED, attempts=MAX_ATTEMPTS),),
        None,
    ),
    "reverted from another release says nothing": (device(1), None, release(3), (report(2, Outcome.REVERTED),), 3),
    "confirmed once, but runs something else now: again": (
        device(1),
        None,
        release(2),
        (report(2, Outcome.CONFIRMED),),
        2,
    ),
}


@pytest.mark.parametrize(("who", "assigned", "newest", "reports", "expected"), CASES.values(), ids=CASES.keys())
def test_choice(
    who: Device, assigned: Release | None, newest: Release | None, reports: Sequence[Report], expected: int | None
) -> None:
    offer = choose(who, assigned, newest, reports)

    assert (offer.id if offer else None) == expected


CHECKIN = Checkin(
    device_id="dev-1",
    model=MODEL,
    image_digest=image(1),
    sequence_number=0,
    slot=0,
    trial=False,
    decoders=("delta/1",),
)


@pytest.fixture
def assigner(storage: Storage) -> Assigner:
    return Assigner(storage.database, poll_s=60, now=lambda: NOW)


async def test_unknown_model_is_named(assigner: Assigner) -> None:
    with pytest.raises(NotFoundError, match="model plug is not known"):
        await assigner.check_in(CHECKIN)


async def test_check_in_names_manifest_digest_and_size(assigner: Assigner, publishing: Publish) -> None:
    result = await publishing(1)

    assignment = await assigner.check_in(CHECKIN)

    assert assignment.manifest_uri == "/d/dev-1/m"
    assert assignment.manifest_digest == result.release.manifest_digest
    assert assignment.size == result.release.envelope_size
    assert assignment.poll_s == 60


async def test_device_in_a_trial_boot_is_left_alone(assigner: Assigner, publishing: Publish) -> None:
    await publishing(1)

    assert (await assigner.check_in(replace(CHECKIN, trial=True))).manifest_uri is None


async def test_device_up_to_date_is_told_so(assigner: Assigner, publishing: Publish, storage: Storage) -> None:
    result = await publishing(1)
    await assigner.check_in(CHECKIN)

    assignment = await assigner.check_in(replace(CHECKIN, image_digest=result.release.image_digest))

    assert assignment.manifest_uri is None
    stored = await storage.database.device("dev-1")
    assert stored is not None
    assert stored.offered_release_id is None


async def test_held_release_reaches_only_the_device_it_is_assigned_to(
    assigner: Assigner, publishing: Publish, storage: Storage
) -> None:
    held = await publishing(1, promote=False)
    await assign(storage.database, "dev-1", "1.0", MODEL)

    mine = await assigner.check_in(CHECKIN)
    other = await assigner.check_in(replace(CHECKIN, device_id="dev-2"))

    assert mine.manifest_digest == held.release.manifest_digest
    assert other.manifest_uri is None


async def test_promoted_release_reaches_everyone(assigner: Assigner, publishing: Publish, storage: Storage) -> None:
    await publishing(1, promote=False)

    assert (await promote(storage.database, MODEL, "1.0")).version == "1.0"

    assert (await assigner.check_in(CHECKIN)).manifest_uri is not None


async def test_assignment_can_be_taken_back(assigner: Assigner, publishing: Publish, storage: Storage) -> None:
    await publishing(1, promote=False)
    await assign(storage.database, "dev-1", "1.0", MODEL)
    await assign(storage.database, "dev-1", None)

    assert (await assigner.check_in(CHECKIN)).manifest_uri is None


async def test_reported_revert_ends_the_offer(assigner: Assigner, publishing: Publish, storage: Storage) -> None:
    result = await publishing(1)
    await assigner.check_in(CHECKIN)
    await Reporter(storage.database, now=lambda: NOW).add(status(result.release.manifest_digest, Outcome.REVERTED))

    assert (await assigner.check_in(CHECKIN)).manifest_uri is None


async def test_numbers_the_database_cannot_keep_are_refused(assigner: Assigner, storage: Storage) -> None:
    with pytest.raises(InputError, match="is above"):
        await assigner.check_in(replace(CHECKIN, sequence_number=2**63))
    with pytest.raises(InputError, match="bytes-down"):
        await Reporter(storage.database, now=lambda: NOW).add(
            replace(status(image(1), Outcome.FAILED), bytes_down=2**64 - 1)
        )


async def test_wishes_that_cannot_be_met_are_explained(publishing: Publish, storage: Storage) -> None:
    await publishing(1)
    await publishing(2, model="lamp")
    store = storage.database

    with pytest.raises(NotFoundError, match="never checked in"):
        await assign(store, "dev-9", "1.0")
    with pytest.raises(NotFoundError, match=r"has no version 9\.9; it has 1\.0"):
        await assign(store, "dev-9", "9.9", MODEL)
    with pytest.raises(NotFoundError, match="model none is not known"):
        await promote(store, "none", "1.0")
    await assign(store, "dev-9", "1.0", MODEL)
    with pytest.raises(ConflictError, match="is of model plug, not lamp"):
        await assign(store, "dev-9", "2.0", "lamp")


def status(manifest_digest: bytes, outcome: Outcome) -> StatusReport:
    return StatusReport(
        device_id="dev-1",
        manifest_digest=manifest_digest,
        outcome=outcome,
        reason=REASON_CONDITION_FAILED,
        detail="self test failed",
        image_digest=image(1),
        sequence_number=0,
        slot=0,
        bytes_up=1,
        bytes_down=2,
        blocks=3,
        blocks_resent=0,
        via=None,
        duration_s=4,
        power_cuts=0,
    )
