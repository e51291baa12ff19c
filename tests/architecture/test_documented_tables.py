"""The lists and figures in the documents are those of the code."""

import re
from pathlib import Path

import pytest

from coap_device.boot.trailer import TRANSITIONS
from coap_device.hardware.layout import Geometry, Layout
from coap_device.lifecycle import FOLLOWS
from protocol import cbor
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import generate
from protocol.suit import author
from protocol.suit.labels import EnvelopeKey
from tests.support.releases import make_release

DOCS = Path(__file__).resolve().parents[2] / "docs"
ARCHITECTURE = (DOCS / "architecture.md").read_text()
PROTOCOL = (DOCS / "protocol.md").read_text()


def listing(name: str) -> list[str]:
    """Return the lines of the block that is fenced with ``name``."""
    found = re.search(rf"^```{name}\n(.*?)^```", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1].splitlines()


def row(text: str, first: str) -> list[str]:
    """Return the cells behind the first one of a table's row."""
    found = re.search(rf"^\| {re.escape(first)} \|(.*)\|$", text, re.MULTILINE)
    assert found, first
    return [cell.strip().replace(",", "") for cell in found[1].split("|")]


def test_stages_are_those_of_the_lifecycle() -> None:
    assert sorted(listing("stages")) == sorted(
        f"{stage.value}: {', '.join(sorted(follower.value for follower in followers))}"
        for stage, followers in FOLLOWS.items()
    )


def test_states_of_a_slot_are_those_of_the_trailer() -> None:
    assert sorted(listing("trailer")) == sorted(
        f"{before.name} --{event.value}--> {after.name}" for (before, event), after in TRANSITIONS.items()
    )


def test_flash_table_is_the_layout() -> None:
    layout = Layout.of(Geometry())

    for region in layout.regions:
        offset, size, _ = row(ARCHITECTURE, region.name)
        assert (int(offset, 16), int(size)) == (region.offset, region.size), region.name
    assert f"{layout.size:,} bytes in all" in ARCHITECTURE


@pytest.mark.parametrize(
    ("first", "images", "severed"),
    [
        ("one image for both slots", 1, False),
        ("... text and install severed", 1, True),
        ("an image for each slot, two deltas a version", 2, False),
    ],
)
def test_sizes_of_manifests_are_those_measured(first: str, images: int, severed: bool) -> None:
    counts = [int(cell) for cell in row(PROTOCOL, "earlier versions")]
    key = generate(KeyKind.P256)
    measured = []
    for count in counts:
        envelope = cbor.decode(author.build_envelope(make_release(count, images=images), key))
        members = {
            label: member
            for label, member in envelope.value.items()
            if not severed or label not in (EnvelopeKey.INSTALL, EnvelopeKey.TEXT)
        }
        measured.append(len(cbor.encode(cbor.Tag(envelope.number, members))))

    assert [int(cell) for cell in row(PROTOCOL, first)] == measured
