"""A table for eyes or for Markdown, from the same rows."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], sections: Sequence[int] = ()) -> None:
    """Print a table to the terminal: the first column to the left, the others to the right.

    ``sections`` are the indices of the rows with a rule below them.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(header[0])
    for name in header[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        table.add_row(*row, end_section=index in sections)
    print(title)
    Console().print(table)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as GitHub Markdown, without a title."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
