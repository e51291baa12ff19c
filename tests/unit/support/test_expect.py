from pathlib import Path

import pytest

from tests.support.expect import expect_folder, expect_tool


@pytest.fixture(params=["", "1"])
def outcome(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    monkeypatch.setenv("OTA_EXPECT_ALL", request.param)
    return pytest.fail.Exception if request.param else pytest.skip.Exception


def test_a_missing_tool_skips_and_fails_where_everything_is_expected(outcome: type[BaseException]) -> None:
    with pytest.raises(outcome, match="no-such-tool is not installed"):
        expect_tool("no-such-tool")


def test_a_missing_folder_skips_and_fails_where_everything_is_expected(
    outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTA_VECTORS", str(tmp_path / "absent"))
    with pytest.raises(outcome, match=r"there is no folder .*absent; set OTA_VECTORS to one"):
        expect_folder("OTA_VECTORS", "vectors")


def test_what_is_there_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTA_VECTORS", str(tmp_path))
    assert expect_folder("OTA_VECTORS", "vectors") == tmp_path
    assert Path(expect_tool("sh")).name == "sh"
