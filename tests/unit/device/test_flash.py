import os
import subprocess
import sys
from pathlib import Path

import pytest

from coap_device.errors import FlashError
from coap_device.hardware.flash import FileBacking, Flash, MemoryBacking
from coap_device.hardware.power import CutMode, PowerCut, PowerPlan


def _flash(power: PowerPlan | None = None, unit: int = 8) -> Flash:
    return Flash(MemoryBacking(8_192), 1_024, unit, power=power)


def test_new_flash_is_erased_and_keeps_what_is_written() -> None:
    flash = _flash()
    assert flash.is_erased(0, flash.size)
    flash.write(1_024, b"12345678")
    assert flash.read(1_024, 9) == b"12345678\xff"


@pytest.mark.parametrize(
    ("offset", "data", "words"),
    [
        (4, bytes(8), "units have 8 bytes"),
        (8, bytes(7), "units have 8 bytes"),
        (8_192, bytes(8), "the flash has 8192 bytes"),
        (-8, bytes(8), "the flash has 8192 bytes"),
    ],
)
def test_write_that_breaks_the_rules_is_refused(offset: int, data: bytes, words: str) -> None:
    with pytest.raises(FlashError, match=words):
        _flash().write(offset, data)


def test_unit_is_written_once_between_two_erases() -> None:
    flash = _flash()
    flash.write(8, bytes(8))
    with pytest.raises(FlashError, match="not erased"):
        flash.write(0, bytes(16))
    flash.erase(0)
    flash.write(0, bytes(16))
    assert flash.read(0, 16) == bytes(16)


def test_erase_takes_whole_sectors_within_the_flash() -> None:
    flash = _flash()
    with pytest.raises(FlashError, match="sectors have 1024 bytes"):
        flash.erase(8)
    with pytest.raises(FlashError, match="the flash has"):
        flash.erase(8_192)


def test_read_beyond_the_end_is_refused() -> None:
    with pytest.raises(FlashError, match="the flash has"):
        _flash().read(8_190, 4)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FlashError, match="do not fit"):
        Flash(MemoryBacking(1_000), 1_024, 8)


def test_statistics_count_erases_per_sector_and_bytes() -> None:
    flash = _flash()
    flash.erase(1_024)
    flash.erase(1_024)
    flash.write(0, bytes(16))
    flash.sync()
    found = flash.statistics
    assert (found.erases, found.writes, found.syncs, found.bytes_written) == (2, 1, 1, 16)
    assert found.erase_counts == {1: 2}
    assert flash.power.operations == 4


@pytest.mark.parametrize("unit", [8, 32])
def test_torn_write_leaves_whole_units_and_a_part_of_the_next(unit: int) -> None:
    power = PowerPlan({0}, CutMode.TORN)
    flash = _flash(power, unit)
    with pytest.raises(PowerCut):
        flash.write(0, bytes(4 * unit))
    left = _reopen(flash, power, unit).read(0, 4 * unit)
    assert left == bytes(2 * unit + unit // 2) + b"\xff" * (unit + unit // 2)


def test_torn_erase_leaves_half_a_sector() -> None:
    power = PowerPlan({1}, CutMode.TORN)
    flash = _flash(power)
    flash.write(0, bytes(1_024))
    with pytest.raises(PowerCut):
        flash.erase(0)
    assert _reopen(flash, power).read(0, 1_024) == b"\xff" * 512 + bytes(512)


def test_flash_is_dead_after_a_cut() -> None:
    power = PowerPlan({0}, CutMode.BEFORE)
    flash = _flash(power)
    with pytest.raises(PowerCut):
        flash.sync()
    for use in (lambda: flash.read(0, 1), lambda: flash.write(0, bytes(8)), lambda: flash.erase(0), flash.sync):
        with pytest.raises(PowerCut):
            use()
    assert power.operations == 1
    assert len(power.cuts) == 1


def test_pad_fills_up_to_whole_units() -> None:
    assert _flash().pad(b"123") == b"123\xff\xff\xff\xff\xff"
    assert _flash().pad(b"12345678") == b"12345678"


def test_file_is_created_erased_and_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "flash.bin"
    backing = FileBacking(path, 200_000)
    assert backing.read(0, 200_000) == b"\xff" * 200_000
    backing.write(5, b"abc")
    backing.sync()
    backing.close()
    backing.close()
    found = FileBacking(path, durable=True)
    found.sync()
    assert (found.size, found.read(4, 5)) == (200_000, b"\xffabc\xff")
    found.close()


def test_file_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "flash.bin"
    holder = FileBacking(path, 4_096)
    program = f"from coap_device.hardware.flash import FileBacking\nFileBacking({str(path)!r}, 4096)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.returncode != 0
    assert "another process uses this flash file" in result.stderr
    with pytest.raises(FlashError, match="another process"):
        FileBacking(path, read_only=True)
    holder.close()
    FileBacking(path, 4_096).close()


def test_many_may_look_at_a_file_that_nobody_writes(tmp_path: Path) -> None:
    path = tmp_path / "flash.bin"
    FileBacking(path, 4_096).close()
    first, second = FileBacking(path, read_only=True), FileBacking(path, 4_096, read_only=True)
    assert first.read(0, 4) == second.read(0, 4)
    with pytest.raises(FlashError, match="cannot write"):
        first.write(0, b"x")
    first.close()
    second.close()


@pytest.mark.parametrize("content", [b"x" * 100, b"\xff" * 5_000])
def test_file_of_a_wrong_size_is_damaged_and_the_message_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flash.bin"
    path.write_bytes(content)
    with pytest.raises(FlashError, match=f"damaged flash file.*remove {path} to provision again"):
        FileBacking(path, 4_096)
    assert path.read_bytes() == content


def test_file_whose_filling_was_interrupted_is_filled_up(tmp_path: Path) -> None:
    path = tmp_path / "flash.bin"
    path.write_bytes(b"\xff" * 100)
    FileBacking(path, 4_096).close()
    assert path.read_bytes() == b"\xff" * 4_096


def test_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="cannot open the flash file: No such file"):
        FileBacking(tmp_path / "missing" / "flash.bin", 4_096)
    with pytest.raises(FlashError, match="cannot open"):
        FileBacking(tmp_path / "not-there.bin")


def test_memory_content_of_another_size_is_refused() -> None:
    with pytest.raises(FlashError, match="3 bytes of content"):
        MemoryBacking(4, content=b"abc")


def _reopen(flash: Flash, power: PowerPlan, unit: int = 8) -> Flash:
    return Flash(flash._backing, 1_024, unit, power=power)
