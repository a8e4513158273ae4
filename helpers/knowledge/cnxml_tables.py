"""CALS tables, as CNXML has them, row by row as text."""

from collections.abc import Callable, Iterable, Iterator
from xml.etree.ElementTree import Element

from helpers.knowledge.markup import clean, inline_text, local

Grid = dict[int, str]  # text by column
MAX_SPAN = 100  # columns or rows; the widest real table has 12


def table_rows(table: Element, read: Callable[[Element], str]) -> list[str]:
    """Title and caption, then a line for each row: 'Drug: Amlodipine; Dose: 5 mg'. `read` gives a cell's text.

    A cell that spans rows is repeated in each, so that every line can be read alone; one that spans all columns is a
    line of its own. Without a head the cells are parted by semicolons.
    """
    lines = [inline_text(part) for part in table if local(part) in ("title", "caption")]
    for group in table.iterfind("{*}tgroup"):
        names = {spec.get("colname"): place for place, spec in enumerate(group.iterfind("{*}colspec"))}
        head: Grid = {}
        for row in _grid(group.iterfind("{*}thead/{*}row"), names, read):
            values = list(dict.fromkeys(row.values()))
            if len(row) > 1 and len(values) == 1:  # the table's name, over all columns
                lines.append(values[0])
                continue
            for column, text in row.items():
                head[column] = clean(f"{head.get(column, '')} {text}") if text != head.get(column) else text
        for part in ("tbody", "tfoot"):
            lines += [_line(row, head) for row in _grid(group.iterfind(f"{{*}}{part}/{{*}}row"), names, read)]
    return lines


def _line(row: Grid, head: Grid) -> str:
    labelled: dict[str, str] = {}  # a cell over several columns stands once, under their labels
    for column, text in row.items():
        if text:
            labelled[text] = ", ".join(filter(None, (labelled.get(text), head.get(column))))
    if len(labelled) == 1 and len(row) > 1:
        return next(iter(labelled))
    return "; ".join(f"{label}: {text}" if label else text for text, label in labelled.items())


def _grid(rows: Iterable[Element], names: dict[str | None, int], read: Callable[[Element], str]) -> Iterator[Grid]:
    """Each row's text by column, cells repeated over the columns and rows that they span."""
    hanging: dict[int, tuple[str, int]] = {}  # by column: a cell from above, and for how many more rows
    for row in rows:
        grid = {column: text for column, (text, _) in hanging.items()}
        hanging = {column: (text, left - 1) for column, (text, left) in hanging.items() if left > 1}
        column = 0
        for entry in row.iterfind("{*}entry"):
            while column in grid:
                column += 1
            column = names.get(entry.get("namest") or entry.get("colname"), column)
            last = min(max(column, names.get(entry.get("nameend"), column)), column + MAX_SPAN)
            text, below = clean(read(entry)), entry.get("morerows") or "0"
            for place in range(column, last + 1):
                grid[place] = text
                if below.isdecimal() and int(below):
                    hanging[place] = (text, min(int(below), MAX_SPAN))
            column = last + 1
        yield dict(sorted(grid.items()))
