"""Image files: raw, Intel HEX, and what is none."""

import hashlib
from pathlib import Path

import pytest
from intelhex import IntelHex

from coap_server.errors import InputError
from coap_server.services.images import LeftOut, read_image
from tests.support.firmware import make_firmware, mutate

UICR = 0x1000_1000


def write_hex(path: Path, areas: dict[int, bytes]) -> Path:
    writer = IntelHex()
    for address, data in areas.items():
        writer.puts(address, data)
    writer.write_hex_file(str(path))
    return path


def test_raw_binary_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "fw.bin"
    path.write_bytes(b"\x00\x01" * 500)

    image = read_image(path)

    assert image.data == b"\x00\x01" * 500
    assert image.digest == hashlib.sha256(image.data).digest()
    assert image.address is None


@pytest.mark.parametrize("name", ["fw.hex", "fw.HEX", "fw.bin"])
def test_intel_hex_is_known_by_suffix_or_first_record(tmp_path: Path, name: str) -> None:
    image = read_image(write_hex(tmp_path / name, {0x0800_0000: b"abcdef"}))

    assert (image.data, image.address) == (b"abcdef", 0x0800_0000)


def test_gaps_are_erased_flash(tmp_path: Path) -> None:
    image = read_image(write_hex(tmp_path / "fw.hex", {0x100: b"abc", 0x110: b"xyz"}))

    assert image.data == b"abc" + b"\xff" * 13 + b"xyz"


def test_memory_far_away_is_left_out_and_named(tmp_path: Path) -> None:
    firmware = make_firmware(1, 3_000)

    image = read_image(write_hex(tmp_path / "fw.hex", {0x1_8000: firmware, UICR: b"\x00" * 16, 0: b"boot"}))

    assert image.data == firmware
    assert image.address == 0x1_8000
    assert image.left_out == (LeftOut(address=0, size=4), LeftOut(address=UICR, size=16))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.bin", b"", "is empty"),
        ("empty.hex", b"", "is empty"),
        ("end.hex", b":00000001FF\n", "is empty"),
        ("cut.hex", b":0300300002337A1E\n", r"without an end-of-file record \(truncated"),
        ("two.hex", b":0300300002337A1E\n:00000001FF\n:0300300002337A1E\n", "goes on after its end-of-file record"),
        ("ends.hex", b":0300300002337A1E\n:00000001FF\n:00000001FF\n", "goes on after its end-of-file record"),
        ("bad.hex", b":0300300002337A1F\n", "is not Intel HEX"),
        ("text.hex", b"this is no record\n", "is not Intel HEX"),
        ("binary.hex", bytes(range(256)), "is not Intel HEX"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(InputError, match=words) as caught:
        read_image(tmp_path / name)

    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hex_that_spans_too_much_is_refused(tmp_path: Path) -> None:
    path = write_hex(tmp_path / "fw.hex", {number * 0xFFFF: b"x" for number in range(1_100)})

    with pytest.raises(InputError, match="spans"):
        read_image(path)


def test_image_larger_than_the_slot_names_both_sizes(tmp_path: Path) -> None:
    (tmp_path / "fw.bin").write_bytes(b"x" * 1_001)

    with pytest.raises(InputError, match=r"has 1001 bytes, the slot takes 1000"):
        read_image(tmp_path / "fw.bin", 1_000)
    assert read_image(tmp_path / "fw.bin", 1_001).data == b"x" * 1_001


def test_folder_and_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read_image(tmp_path / "none.bin")


def test_made_firmware_is_reproducible_and_versions_are_alike() -> None:
    old = make_firmware(3, 20_000)
    new = mutate(old, 4, growth=100)

    assert old == make_firmware(3, 20_000)
    assert new == mutate(old, 4, growth=100)
    assert (len(old), len(new)) == (20_000, 20_100)
    assert 0.001 < sum(a != b for a, b in zip(old, new, strict=False)) / len(old) < 0.99
