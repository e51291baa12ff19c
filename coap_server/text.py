"""Words from outside made fit for a terminal or a log: one line, no control characters, no more than so many."""

from typing import Final

MAX_SHOWN: Final = 300


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    r"""Return ``text`` with what cannot be printed escaped, cut to ``limit`` characters.

    A device or a damaged file may hold an escape sequence that recolours a terminal, or a line break that forges a
    line of the log.

    >>> printable("\x1b[31mred\n")
    '\\x1b[31mred\\n'
    """
    shown = "".join(char if char.isprintable() else _escaped(char) for char in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
