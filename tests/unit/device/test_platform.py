"""What the platform refuses, whoever signed it: a manifest that does not say which devices it is for."""

import asyncio
import hashlib
from collections.abc import Sequence as SequenceOf

import pytest

from coap_device.boot.board import Board, open_board
from coap_device.config import DeviceConfig, ServerAddress
from coap_device.factory import factory_record, write_factory_data
from coap_device.hardware.flash import MemoryBacking
from coap_device.hardware.layout import Geometry, Layout
from coap_device.hardware.power import PowerPlan
from coap_device.platform import Download, Platform
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import generate
from protocol.errors import OperationError, OtaError, PolicyError, RequestRefused, TransferTimeout
from protocol.suit import author, codec
from protocol.suit.authentication import authenticate
from protocol.suit.envelope import manifest_digest
from protocol.suit.identifiers import DEFAULT_VENDOR_DOMAIN, class_id, vendor_id
from protocol.suit.labels import Command, Parameter, Policy
from protocol.suit.manifest import Common, Manifest
from protocol.suit.model import sha256_digest
from protocol.suit.processor import Procedure, Processor
from protocol.suit.sequences import sequence

KEY = generate(KeyKind.ED25519)
OLD, NEW = bytes(5_000), bytes(range(256)) * 20
VENDOR = vendor_id(DEFAULT_VENDOR_DOMAIN)
CLASS = class_id(VENDOR, "board-a")


def make_board() -> tuple[Board, MemoryBacking]:
    from pathlib import Path

    config = DeviceConfig(
        server=ServerAddress(host="server", port=5683),
        state=Path("unused"),
        device_id="dev",
        model="board-a",
        geometry=Geometry(slot_size=8_192),
    )
    backing = MemoryBacking(Layout.of(config.geometry).size)
    write_factory_data(backing, factory_record(config, OLD, (KEY.public.to_cose_key(),)), OLD)
    return open_board(backing, PowerPlan()), backing


def signed(identity: SequenceOf[tuple[Command, object]]) -> codec.Decoded:
    """A manifest for the full image, with these conditions in its shared sequence."""
    digest = hashlib.sha256(NEW).digest()
    parameters = {
        Parameter.VENDOR_IDENTIFIER: VENDOR,
        Parameter.CLASS_IDENTIFIER: CLASS,
        Parameter.IMAGE_DIGEST: sha256_digest(digest),
        Parameter.IMAGE_SIZE: len(NEW),
    }
    index = (Command.DIRECTIVE_SET_COMPONENT_INDEX, 0)
    match = (Command.CONDITION_IMAGE_MATCH, Policy.ALL)
    manifest = Manifest(
        version=1,
        sequence_number=3,
        common=Common(
            components=(author.FW,),
            shared_sequence=sequence(index, (Command.DIRECTIVE_OVERRIDE_PARAMETERS, parameters), *identity),
        ),
        validate=sequence(index, match),
        install=sequence(
            index,
            (Command.DIRECTIVE_OVERRIDE_PARAMETERS, {Parameter.URI: "/p/new"}),
            (Command.DIRECTIVE_FETCH, Policy.NONE),
            match,
        ),
    )
    return codec.decode_manifest(authenticate(codec.encode_envelope(manifest, (KEY,)), (KEY.public,)))


async def bring(download: Download) -> None:
    """Put the whole payload into the store, as a link without faults would."""
    store = download.store
    store.begin(store.make_header(digest=download.digest, size=download.size, granule=1_024))
    for offset in range(0, len(NEW), 1_024):
        store.put(offset, NEW[offset : offset + 1_024])


async def install(board: Board, decoded: codec.Decoded) -> Platform:
    running = board.bootloader.boot()
    digest = manifest_digest(decoded.authentic.envelope)
    platform = Platform(board, running, decoded, digest, bring)
    steps = Processor(decoded).run(Procedure.UPDATE)
    try:
        effect = next(steps)
        while True:
            effect = steps.send(await platform.perform(effect))
    except StopIteration:
        platform.activate()
    return platform


BOTH = ((Command.CONDITION_VENDOR_IDENTIFIER, Policy.ALL), (Command.CONDITION_CLASS_IDENTIFIER, Policy.ALL))


def test_a_manifest_for_this_vendor_and_class_is_installed_and_boots() -> None:
    board, backing = make_board()
    asyncio.run(install(board, signed(BOTH)))
    booted = open_board(backing, PowerPlan()).bootloader.boot()
    assert booted.image_digest == hashlib.sha256(NEW).digest()


@pytest.mark.parametrize("identity", [(), BOTH[:1], BOTH[1:]])
def test_a_manifest_that_leaves_vendor_or_class_out_is_refused_before_anything_is_written(
    identity: SequenceOf[tuple[Command, object]],
) -> None:
    board, backing = make_board()
    before = backing.snapshot()
    with pytest.raises(PolicyError, match="which devices"):
        asyncio.run(install(board, signed(identity)))
    assert backing.snapshot() == before


@pytest.mark.parametrize(
    ("error", "definite"),
    [
        (RequestRefused("/p/x: 4.04", code=0x84), True),
        (RequestRefused("/p/x: 5.03", code=0xA3), False),
        (TransferTimeout("no new block"), False),
        (OperationError("the delta makes too many bytes"), True),
    ],
)
def test_only_a_definite_failure_of_the_delta_withholds_it(error: OtaError, definite: bool) -> None:
    board, _ = make_board()
    decoded = signed(BOTH)
    digest = manifest_digest(decoded.authentic.envelope)
    platform = Platform(board, board.bootloader.boot(), decoded, digest, bring)
    assert not platform.withhold_delta_after(error), "no delta was in hand"
    platform._delta_in_hand = True
    assert platform.withhold_delta_after(error) is definite
    assert bool(board.ledger.withheld_count(digest)) is definite
