"""What a test may expect of the machine: absent tools and material skip, or fail where everything is expected."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def expects_all() -> bool:
    """Return whether OTA_EXPECT_ALL=1: nothing may be missing."""
    return os.environ.get("OTA_EXPECT_ALL") == "1"


def missing(what: str) -> NoReturn:
    """Skip the test because ``what`` is missing; with OTA_EXPECT_ALL=1 fail it."""
    if expects_all():
        pytest.fail(f"{what} (OTA_EXPECT_ALL=1 expects everything)", pytrace=False)
    pytest.skip(what)


def expect_tool(name: str) -> str:
    """Return the path of the program ``name``; skip or fail where it is not installed."""
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed")
    return found


def expect_folder(variable: str, default: str) -> Path:
    """Return the folder that the environment variable names, or else the one next to the repository."""
    given = os.environ.get(variable)
    folder = Path(given) if given else REPOSITORY.parent / "shared" / default
    if not folder.is_dir():
        missing(f"there is no folder {folder}; set {variable} to one")
    return folder
