"""Check the documents: ``python -m tools.doclinks`` finds links and file names that lead nowhere.

Two rules. Every relative link in a Markdown file leads to a file or folder of the project. Every path in backticks in
``docs/architecture.md`` that names one of the project's folders exists, so the page cannot describe files that moved.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

DOCUMENTS: Final = ("*.md", "docs/**/*.md")
PATHS_CHECKED: Final = ("docs/architecture.md",)
FOLDERS: Final = "protocol|coap_server|coap_device|tools|tests|docs|benchmarks|examples|embedded"

_LINK: Final = re.compile(r"\]\(\s*<?([^)\s>]+)")
_PATH: Final = re.compile(rf"`((?:{FOLDERS})/[\w./-]+)`")
_FENCE: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def find_broken(root: Path) -> Iterator[str]:
    """Yield one line, ``file: what is missing``, for every broken link and path under ``root``."""
    for document in sorted({path for pattern in DOCUMENTS for path in root.glob(pattern)}):
        name = document.relative_to(root).as_posix()
        prose = _FENCE.sub("", document.read_text(encoding="utf-8"))
        for target in _LINK.findall(prose):
            path = target.partition("#")[0]
            if path and ":" not in path and not (document.parent / path).exists():
                yield f"{name}: link to {target}, which does not exist"
        if name in PATHS_CHECKED:
            for path in sorted(set(_PATH.findall(prose))):
                if not (root / path).exists():
                    yield f"{name}: names {path}, which does not exist"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the tree in the given folder (or here); print what is broken and return 1 if anything is."""
    given = sys.argv[1:] if arguments is None else arguments
    root = Path(given[0]) if given else Path()
    broken = list(find_broken(root))
    for line in broken:
        print(line, file=sys.stderr)
    print(f"docs: {len(broken)} broken" if broken else "docs: every link and file name leads somewhere")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
