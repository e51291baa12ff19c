"""The import contracts hold, and they notice when someone breaks one."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("protocol", "coap_server", "coap_device")
IO_PACKAGES = {"protocol.aio"}


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    return subprocess.run([*command, "--no-cache"], cwd=tree, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def break_with(module: Path, line: str) -> None:
    module.write_text(f"{module.read_text()}\n{line}\n")


def test_contracts_hold() -> None:
    result = lint_imports(ROOT)

    assert result.returncode == 0, result.stdout
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize("module", ["asyncio", "socket", "time", "aiocoap"])
def test_io_in_the_transfer_machine_breaks_the_core_contract(tree: Path, module: str) -> None:
    break_with(tree / "protocol" / "transfer" / "receiver.py", f"import {module}")

    result = lint_imports(tree)

    assert result.returncode != 0
    assert f"protocol.transfer is not allowed to import {module}" in result.stdout
    assert "Core: no loop, socket, clock or thread BROKEN" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    "module", ["subprocess", "pathlib", "os", "sqlite3", "urllib.request", "secrets", "datetime", "concurrent.futures"]
)
def test_files_processes_and_system_sources_break_the_pure_contract(tree: Path, module: str) -> None:
    break_with(tree / "protocol" / "transfer" / "ranges.py", f"import {module}")

    result = lint_imports(tree)

    assert result.returncode != 0
    assert f"protocol.transfer is not allowed to import {module.partition('.')[0]}" in result.stdout


def test_a_package_that_imports_its_tests_breaks_the_shipped_contract(tree: Path) -> None:
    break_with(tree / "coap_server" / "config.py", "import tests.support")

    result = lint_imports(tree)

    assert result.returncode != 0
    assert "coap_server is not allowed to import tests" in result.stdout


def test_detour_through_protocol_aio_breaks_the_core_contract(tree: Path) -> None:
    modules = sorted((tree / "coap_device" / "boot").glob("[a-z]*.py"))
    break_with(modules[0], "import protocol.aio.endpoint")

    result = lint_imports(tree)

    assert result.returncode != 0
    assert "coap_device.boot is not allowed to import asyncio" in result.stdout


def test_server_that_imports_the_device_breaks_the_ends_contract(tree: Path) -> None:
    break_with(tree / "coap_server" / "app.py", "import coap_device.agent")

    result = lint_imports(tree)

    assert result.returncode != 0
    assert "coap_server is not allowed to import coap_device" in result.stdout


def test_every_core_package_stands_under_the_core_contract() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {contract["id"]: contract for contract in config["tool"]["importlinter"]["contracts"]}
    found = {
        f"protocol.{path.stem}"
        for path in (ROOT / "protocol").iterdir()
        if not path.name.startswith(("_", ".")) and (path.is_dir() or path.suffix == ".py")
    }

    assert found - IO_PACKAGES <= set(contracts["core"]["source_modules"])
    assert found - IO_PACKAGES <= set(contracts["pure"]["source_modules"])
