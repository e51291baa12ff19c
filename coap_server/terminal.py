"""What commands print: tables for people, JSON for programs. Results go to stdout, everything else to stderr."""

import io
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from typing import Final

from rich.console import Console
from rich.table import Table

from coap_server.text import printable

Json = str | int | float | bool | None | Sequence["Json"] | dict[str, "Json"]


MAX_LINE: Final = 4_096


def tolerate_encodings() -> None:
    """Let what the terminal's encoding has no character for come out escaped, not as an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_json(value: Json) -> None:
    """Print one line of JSON."""
    text = json.dumps(value, ensure_ascii=False)
    # What JSON allows in a string may still steer a terminal, e.g. U+009B.
    sys.stdout.write("".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text) + "\n")
    sys.stdout.flush()


def show_line(text: str) -> None:
    """Print one line."""
    sys.stdout.write(printable(text, MAX_LINE) + "\n")
    sys.stdout.flush()


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Print a table, or the line ``empty`` where there are no rows."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(printable(cell) for cell in row))
    if not table.row_count:
        show_line(empty)
        return
    # In a pipe there is no width to fit into.
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False)
    console.print(table)


def show_error(message: object) -> None:
    """Print what went wrong, in one line."""
    line = printable(" ".join(str(message).split()), MAX_LINE)
    sys.stderr.write(f"ota-server: error: {line}\n")


def show_note(message: str) -> None:
    """Print something worth knowing that is not the result."""
    sys.stderr.write(f"ota-server: {printable(message, MAX_LINE)}\n")


def hexed(value: bytes | None) -> str | None:
    """Return bytes as JSON has them: hex digits, or null."""
    return None if value is None else value.hex()


def timed(value: datetime | None) -> str | None:
    """Return a time as JSON has it: ISO 8601 with its zone, or null."""
    return None if value is None else value.isoformat(timespec="seconds")


def named(value: Enum | None) -> str | None:
    """Return an enum's member as JSON has it: its name in small letters, or null."""
    return None if value is None else value.name.lower()


def sized(size: int) -> str:
    """Return a number of bytes as people read it.

    >>> sized(262144)
    '262,144'
    """
    return f"{size:,}"
