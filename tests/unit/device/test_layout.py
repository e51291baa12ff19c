import pytest

from coap_device.errors import FlashError
from coap_device.hardware.layout import Geometry, Layout
from tests.unit.device.helpers import GEOMETRIES


@pytest.mark.parametrize("geometry", [Geometry(), *GEOMETRIES])
def test_regions_are_whole_sectors_that_follow_one_another(geometry: Geometry) -> None:
    layout = Layout.of(geometry)
    position = 0
    for region in layout.regions:
        assert region.offset == position
        assert region.size % geometry.sector_size == 0
        assert region.size > 0
        position = region.end
    assert position == layout.size
    assert len({region.name for region in layout.regions}) == len(layout.regions)


def test_slot_has_two_trailer_copies_in_sectors_of_their_own() -> None:
    slot = Layout.of(Geometry()).slots[1]
    assert [region.size for region in slot.trailers] == [4_096, 4_096]
    assert slot.image.size == 524_288
    assert slot.header.size == 4_096


def test_staging_is_as_large_as_a_slot_unless_told_otherwise() -> None:
    assert Geometry(slot_size=8_192).staging_size == 8_192
    assert Geometry(slot_size=8_192, staging_size=4_096).staging_size == 4_096


def test_journal_has_a_record_per_64_bytes_of_the_larger_target_and_a_spare_sector() -> None:
    assert Geometry().journal_size == 524_288 // 64 * 8 + 4_096
    assert Geometry(write_unit=32).journal_size == 524_288 // 64 * 32 + 4_096
    assert Geometry(slot_size=8_192, staging_size=65_536).journal_size == 65_536 // 64 * 8 + 4_096


@pytest.mark.parametrize(
    "sizes",
    [
        {"sector_size": 1_000},
        {"sector_size": 512},
        {"write_unit": 3},
        {"write_unit": 128},
        {"slot_size": 5_000},
        {"slot_size": -4_096},
        {"staging_size": 1},
        {"envelope_size": 0},
        {"slot_size": 1 << 40},
    ],
)
def test_geometry_that_no_layout_can_be_made_of_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(FlashError, match="geometry"):
        Geometry(**sizes)


def test_flash_of_more_than_2_gib_is_refused() -> None:
    with pytest.raises(FlashError, match="the limit is"):
        Layout.of(Geometry(slot_size=1 << 30))
