"""Made-up firmware that changes from version to version the way linked code does.

A real image of the next version differs from the last one in two ways: a few functions are edited, and everything
behind an inserted function moves, so every call and every stored address that crosses the insertion changes too.
Random bytes show neither, and a delta codec would look far better or far worse on them than on code. This module
links a small program of functions that call each other, edits the program, and links it again.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

RAM_TOP: Final = 0x20004000
VECTORS: Final = 48
FUNCTIONS: Final = 1_800
OPCODES: Final = 400


class Kind(Enum):
    """What one item of a function becomes when it is linked."""

    OPCODE = auto()
    CALL = auto()
    ADDRESS = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a function: ``value`` is a halfword (`OPCODE`) or the identifier of a function."""

    kind: Kind
    value: int

    @property
    def size(self) -> int:
        """Bytes the item takes in the image."""
        return 2 if self.kind is Kind.OPCODE else 4


Program = dict[int, list[Item]]


def make_images(seed: int, count: int) -> Iterator[bytes]:
    """Yield ``count`` images, each an edited and newly linked version of the one before.

    Args:
        seed: the same seed gives the same images on every machine.
        count: how many versions, at least 1.
    """
    rng = random.Random(seed)
    opcodes = [rng.getrandbits(16) for _ in range(OPCODES)]
    program: Program = {}
    for name in range(FUNCTIONS):
        program[name] = _function(rng, opcodes, known=FUNCTIONS)
    for version in range(1, count + 1):
        yield _link(program, version)
        program = _edit(rng, opcodes, program)


def _function(rng: random.Random, opcodes: list[int], known: int) -> list[Item]:
    items = [Item(kind=Kind.OPCODE, value=_opcode(rng, opcodes)) for _ in range(rng.randint(20, 90))]
    for place in rng.sample(range(len(items)), rng.randint(1, 6)):
        items[place] = Item(kind=Kind.CALL, value=rng.randrange(known))
    items += [Item(kind=Kind.ADDRESS, value=rng.randrange(known)) for _ in range(rng.randint(0, 4))]
    return items


def _opcode(rng: random.Random, opcodes: list[int]) -> int:
    # few instructions are common and many are rare, so the image compresses like code
    return opcodes[min(int(rng.expovariate(8 / OPCODES)), OPCODES - 1)]


def _edit(rng: random.Random, opcodes: list[int], program: Program) -> Program:
    names = list(program)
    edited = dict(program)
    for name in rng.sample(names, len(names) // 12):
        items = list(edited[name])
        items[rng.randrange(len(items))] = Item(kind=Kind.OPCODE, value=_opcode(rng, opcodes))
        edited[name] = items
    order = list(edited.items())
    for name in range(len(names), len(names) + 6):
        order.insert(rng.randrange(len(order)), (name, _function(rng, opcodes, known=len(names))))
    return dict(order)


def _link(program: Program, version: int) -> bytes:
    addresses: dict[int, int] = {}
    position = VECTORS * 4
    for name, items in program.items():
        addresses[name] = position
        position += -(-sum(item.size for item in items) // 4) * 4
    first = list(addresses.values())[: VECTORS - 1]
    image = bytearray(struct.pack(f"<{VECTORS}I", RAM_TOP, *(address | 1 for address in first)))
    for name, items in program.items():
        image += b"\x00" * (addresses[name] - len(image))
        for item in items:
            image += _encode(item, addresses, len(image))
    return bytes(image) + f"synthetic firmware, version {version}, not for any device".encode().ljust(64, b"\x00")


def _encode(item: Item, addresses: dict[int, int], position: int) -> bytes:
    if item.kind is Kind.OPCODE:
        return struct.pack("<H", item.value)
    if item.kind is Kind.ADDRESS:
        return struct.pack("<I", addresses[item.value] | 1)
    # a Thumb call: two halfwords with 11 bits each of the distance in halfwords
    distance = (addresses[item.value] - position - 4) >> 1
    return struct.pack("<HH", 0xF000 | (distance >> 11) & 0x7FF, 0xF800 | distance & 0x7FF)
