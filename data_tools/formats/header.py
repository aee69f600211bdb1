"""Which columns a file has: by the names of its header line, or by its format's order."""

import collections
import csv
import dataclasses
from collections.abc import Sequence

from data_tools.errors import DataError
from data_tools.formats.base import TextLayout
from data_tools.formats.entry_columns import EntryColumns
from data_tools.formats.lines import Cells, find_cells

_SNIFFED_LINES = 100


@dataclasses.dataclass(frozen=True)
class FileColumns:
    """The columns of one file: its ``delimiter``, and the position of each column by the layout's names."""

    delimiter: str
    width: int
    positions: dict[str, int]
    has_header: bool

    def cut(self, text: bytes) -> Cells:
        """The cells of whole lines."""
        return find_cells(text, self.delimiter, self.width)


def find_columns(
    text: bytes, layout: TextLayout, *, where: str, for_prediction: bool, keep: tuple[str, ...] = ()
) -> FileColumns | EntryColumns:
    """The columns of a file that begins with ``text`` (whole lines).

    ``keep`` are further columns to find. Raises ``DataError`` naming a column that is needed and missing, and the
    columns found.
    """
    if layout.syntax in ("libsvm", "libffm"):
        return EntryColumns.of(layout, where=where, for_prediction=for_prediction, keep=keep)
    lines = [line for line in text.lstrip(b"\n").split(b"\n", _SNIFFED_LINES)[:_SNIFFED_LINES] if line]
    first = lines[0].decode("utf-8", "backslashreplace")
    header = _header(first, layout)
    if header is not None:
        delimiter, cells = header
        positions = match_names(cells, layout, where=where, for_prediction=for_prediction, keep=keep)
        return FileColumns(delimiter, len(cells), positions, has_header=True)
    if layout.needs_header:
        every = ", ".join(column.name for column in layout.columns)
        raise DataError(f"{where}: the first line names no column of {layout.format} ({every}): {first[:80]!r}")
    delimiter, names = _without_header(lines, layout, for_prediction, where)
    positions = match_names(names, layout, where=where, for_prediction=for_prediction, keep=keep)
    return FileColumns(delimiter, len(names), positions, has_header=False)


def match_names(
    cells: Sequence[str], layout: TextLayout, *, where: str, for_prediction: bool, keep: tuple[str, ...] = ()
) -> dict[str, int]:
    """The position of each column of ``layout``, and of ``keep``, among the names ``cells`` that a file gives.

    Rows to predict may lack the layout's optional columns, rows to train on the timestamp. Raises ``DataError``.
    """
    positions: dict[str, int] = {}
    names = {name: column.name for column in layout.columns for name in (column.header, column.name) if name}
    names |= {name: name for name in keep if name not in names}
    for position, cell in enumerate(cells):
        name = names.get(cell)
        if name in positions:
            raise DataError(f"{where}: the column {name!r} is there twice; columns found: {', '.join(cells)}")
        if name is not None:
            positions[name] = position
    optional = layout.optional if for_prediction else {layout.timestamp}
    needed = [column.name for column in layout.columns if column.name not in optional] + list(keep)
    missing = [name for name in needed if name not in positions]
    if missing:
        aliases = {column.name: f" (or {column.header!r})" for column in layout.columns if column.header}
        raise DataError(
            f"{where}: there is no column {missing[0]!r}{aliases.get(missing[0], '')}; "
            f"columns found: {', '.join(cells)}"
        )
    return positions


def split_line(line: str, delimiter: str) -> list[str]:
    try:
        cells = next(csv.reader([line]), []) if delimiter == "," else line.split(delimiter)
    except csv.Error:  # a cell is too long
        cells = [line]
    return [cell.strip() for cell in cells]


def _header(line: str, layout: TextLayout) -> tuple[str, list[str]] | None:
    """The delimiter and cells of the header line, or None if ``line`` holds data."""
    known = {name for column in layout.columns for name in (column.name, column.header) if name}
    options = [(delimiter, split_line(line, delimiter)) for delimiter in _delimiters(layout)]
    best = max(options, key=lambda option: sum(cell in known for cell in option[1]))
    if any(cell in known for cell in best[1]):
        return best
    if not any(column.required and column.type != "token" for column in layout.columns):
        return None
    # Without a known name, a line of words alone is still no data: ids and labels have digits.
    widest = max(options, key=lambda option: len(option[1]))
    if len(widest[1]) > 1 and all(cell[:1].isalpha() and not any(map(str.isdigit, cell)) for cell in widest[1]):
        return widest
    return None


def _without_header(
    lines: list[bytes], layout: TextLayout, for_prediction: bool, where: str
) -> tuple[str, tuple[str, ...]]:
    """The delimiter and column names that fit most of the first lines."""
    every = tuple(column.name for column in layout.columns)
    if not for_prediction:
        return layout.delimiter, every
    both = {layout.label, layout.timestamp}
    absences: list[set] = [set(), {layout.timestamp}, {layout.label}, both, layout.optional - both, layout.optional]
    shapes: dict[int, tuple[str, ...]] = {}
    for absent in absences:
        names = tuple(name for name in every if name not in absent)
        shapes.setdefault(len(names), names)
    seen = collections.Counter(
        (delimiter, len(split_line(line.decode("utf-8", "backslashreplace"), delimiter)))
        for delimiter in _delimiters(layout)
        for line in lines
    )
    fitting = {key: count for key, count in seen.items() if key[1] in shapes}
    if not fitting:
        widths = " or ".join(map(str, sorted(shapes)))
        raise DataError(
            f"{where}: a row of {layout.format} has {widths} columns separated by {layout.delimiter!r} "
            f"({', '.join(every[:5])}{' ...' if len(every) > 5 else ''}), or a header line names them; "
            f"the first line is {lines[0][:80].decode('utf-8', 'backslashreplace')!r}"
        )
    delimiter, width = max(fitting, key=lambda key: fitting[key])
    return delimiter, shapes[width]


def _delimiters(layout: TextLayout) -> list[str]:
    return list(dict.fromkeys([layout.delimiter, ",", "\t", "::"]))
