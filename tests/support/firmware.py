"""Firmware that behaves like the real thing under a delta codec: versions share most code, shifted, with new addresses.

An image is a vector table, functions of 16-bit instructions drawn from a small vocabulary, and calls whose 32-bit
operands are addresses of other functions. A new version changes a few functions, which moves all that follow, so
that addresses all over the image differ by small amounts, as they do after a real link.
"""

import random
import struct

FLASH_BASE = 0x0800_0000
_CALL = 0xF7FF
_VOCABULARY_SIZE = 400


def make_firmware(seed: int, size: int) -> bytes:
    """Return an image of exactly ``size`` bytes."""
    return _link(_functions(seed, size), size)


def mutate(image: bytes, seed: int, changes: int = 5, growth: int = 0) -> bytes:
    """Return the next version of ``image``: ``changes`` places edited, code shifted, addresses adjusted.

    The result has ``len(image) + growth`` bytes.
    """
    rng = random.Random(f"mutate/{seed}")
    edits = sorted(rng.sample(range(128, max(129, len(image) - 64), 2), min(changes, max(1, len(image) // 256))))
    pieces, last, moved = [], 0, []
    for at in edits:
        inserted = rng.randbytes(2 * rng.randint(1, 12))
        pieces += [image[last:at], inserted]
        moved.append((at, len(inserted)))
        last = at + rng.choice((0, 0, 2, 4))
    body = bytearray(b"".join([*pieces, image[last:]]))
    for at in range(0, len(body) - 6, 2):
        (code,) = struct.unpack_from("<H", body, at)
        if code == _CALL:
            (address,) = struct.unpack_from("<I", body, at + 2)
            shift = sum(size for place, size in moved if address - FLASH_BASE > place)
            if FLASH_BASE <= address < FLASH_BASE + len(image):
                struct.pack_into("<I", body, at + 2, address + shift)
    size = len(image) + growth
    return bytes(body[:size]).ljust(size, b"\xff")


def _functions(seed: int, size: int) -> list[bytes]:
    rng = random.Random(f"firmware/{seed}")
    vocabulary = [rng.randrange(0x10000) for _ in range(_VOCABULARY_SIZE)]
    functions: list[bytes] = []
    total = 64
    while total < size:
        words = []
        for _ in range(rng.randint(12, 160)):
            if rng.random() < 0.08:
                words.append(struct.pack("<HI", _CALL, FLASH_BASE + 2 * rng.randrange(max(1, size // 2))))
            else:
                words.append(struct.pack("<H", vocabulary[int(rng.paretovariate(0.7)) % _VOCABULARY_SIZE]))
        functions.append(b"".join(words))
        total += len(functions[-1])
    return functions


def _link(functions: list[bytes], size: int) -> bytes:
    table, address = [], FLASH_BASE + 64
    for function in functions[:16]:
        table.append(struct.pack("<I", address))
        address += len(function)
    body = b"".join(table).ljust(64, b"\0") + b"".join(functions)
    return body[:size].ljust(size, b"\xff")
