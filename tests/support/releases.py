"""Releases of a kind that an operator would publish, in any number of earlier versions."""

import hashlib

from protocol.coap.numbers import payload_uri
from protocol.suit import author
from protocol.suit.identifiers import class_id, vendor_id


def digest_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def make_release(precursors: int, *, images: int = 1, sizes: bool = False, text: bool = True) -> author.Release:
    """Return a release with so many earlier versions, of one image for both slots or of one image for each."""
    vendor = vendor_id("vendor.example")
    slots: tuple[int | None, ...] = (None,) if images == 1 else author.SLOTS
    words = author.Text(description="board-a 1.2.0", model_name="board-a", component_version="1.2.0")
    return author.Release(
        sequence_number=7,
        vendor_id=vendor,
        class_id=class_id(vendor, "board-a"),
        targets=tuple(
            author.Target(
                digest=digest_of(f"new {slot}"), size=250_000, uri=payload_uri(digest_of(f"new {slot}")), slot=slot
            )
            for slot in slots
        ),
        precursors=tuple(
            author.Precursor(
                digest=digest_of(f"old {number} {slot}"),
                size=248_000 + number if sizes else None,
                delta_digest=digest_of(f"delta {number} {slot}"),
                delta_size=20_000 + number,
                delta_uri=payload_uri(digest_of(f"delta {number} {slot}")),
                slot=slot,
            )
            for number in range(precursors)
            for slot in slots
        ),
        text=words if text else None,
    )
