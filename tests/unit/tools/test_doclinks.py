"""tools.doclinks: a dead link or a vanished file in the documents is found."""

from pathlib import Path

import pytest

from tools.doclinks import find_broken, main


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "protocol").mkdir()
    (tmp_path / "protocol" / "errors.py").write_text("")
    (tmp_path / "README.md").write_text("[how](docs/architecture.md#layers), [mail](mailto:x), [here](#test)\n")
    (tmp_path / "docs" / "architecture.md").write_text("`protocol/errors.py` and `protocol/` [up](../README.md)\n")
    return tmp_path


def test_links_and_paths_that_exist_are_accepted(tree: Path) -> None:
    assert list(find_broken(tree)) == []


def test_dead_link_is_found(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "README.md").write_text("[how](docs/missing.md#layers)\n")

    assert main([str(tree)]) == 1
    assert capsys.readouterr().err == "README.md: link to docs/missing.md#layers, which does not exist\n"


def test_vanished_file_in_the_architecture_is_found(tree: Path) -> None:
    (tree / "docs" / "architecture.md").write_text("`protocol/gone.py`\n")

    assert list(find_broken(tree)) == ["docs/architecture.md: names protocol/gone.py, which does not exist"]


def test_fenced_code_is_not_prose(tree: Path) -> None:
    (tree / "docs" / "architecture.md").write_text("```\n[x](gone.md) `protocol/gone.py`\n```\n")

    assert list(find_broken(tree)) == []
