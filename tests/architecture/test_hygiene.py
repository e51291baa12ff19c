"""What must not stand in the tree: addresses of machines and registries, firmware, huge modules, hidden state."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("protocol", "coap_server", "coap_device", "tools")
MODULE_LINES = 600
BINARY_LIMIT = 16 * 1024
FIRMWARE_SUFFIXES = {".bin", ".elf", ".hex", ".img", ".uf2", ".dfu"}

# In pieces, so that this file does not hold what it looks for.
REGISTRIES = [
    ".".join(parts)
    for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("debian", "org"))
]
PLACES = ["/".join(("", name, "")) for name in ("work", "root", "home")]


def tracked() -> list[Path]:
    """Files that are committed or would be: all that git does not ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def is_binary(data: bytes) -> bool:
    return b"\0" in data


def lines_with(pattern: re.Pattern[str]) -> Iterator[str]:
    for path in tracked():
        data = path.read_bytes()
        if not is_binary(data):
            for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
                if pattern.search(line):
                    yield f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_no_file_names_the_host_of_a_registry() -> None:
    assert list(lines_with(re.compile("|".join(map(re.escape, REGISTRIES)), re.IGNORECASE))) == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    assert list(lines_with(re.compile(r"(?<![\w.~-])(?:" + "|".join(map(re.escape, PLACES)) + ")"))) == []


def test_no_firmware_is_committed() -> None:
    large = [path for path in tracked() if path.stat().st_size > BINARY_LIMIT and is_binary(path.read_bytes())]

    assert [str(path.relative_to(ROOT)) for path in large] == []
    assert [str(path.relative_to(ROOT)) for path in tracked() if path.suffix in FIRMWARE_SUFFIXES] == []


def test_constraints_hold_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()

    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []


def test_no_module_is_longer_than_the_limit() -> None:
    sizes = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in modules(*PACKAGES, "tests")}

    assert sizes
    assert {str(path): size for path, size in sizes.items() if size > MODULE_LINES} == {}


def stray_globals(source: str) -> Iterator[str]:
    """Yield module-level names that hold mutable state: containers not named as constants, and rebound globals."""
    tree = ast.parse(source)
    displays = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    makers = {"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict"}
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        value = node.value
        called = value.func if isinstance(value, ast.Call) else None
        maker = getattr(called, "id", getattr(called, "attr", None))
        if isinstance(value, displays) or maker in makers:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                # a table in capitals is a registry: written once, here
                if isinstance(target, ast.Name) and not target.id.isupper() and target.id != "__all__":
                    yield target.id
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Global):
            yield from inner.names


def test_no_module_keeps_mutable_state() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}" for path in modules(*PACKAGES) for name in stray_globals(path.read_text())
    }

    assert found == set()


def test_stray_globals_are_seen() -> None:
    source = (
        "import collections\ncache = {}\nseen: set[int] = set()\nq = collections.deque()\nCODECS = {}\n__all__ = []\n"
    )

    assert list(stray_globals(source)) == ["cache", "seen", "q"]
    assert list(stray_globals("def f():\n    global n\n    n = 1\n")) == ["n"]
