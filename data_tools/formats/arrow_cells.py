"""Arrow columns as the cells of a text file would have them. Axes: N rows, U distinct values.

A null is an empty cell; an integral number has no decimal point, whatever its type; a truth is 1 or 0; a time is whole
seconds since 1970 (UTC); a list is its entries, joined. Nothing here runs before pyarrow was found to be there.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_tools.errors import DataError
from data_tools.tokens import Tokens

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY_S = 86_400
_EXACT = 2**53  # float64 holds every integer up to it


def check_type(kind: Any, name: str, split: str | None) -> None:
    """Raises ``DataError`` if column ``name`` of Arrow type ``kind`` has no cells; a list needs ``split``."""
    if _is_list(kind):
        if split is None:
            raise DataError(f"column {name!r} holds lists ({kind}), and no field reads it as one: split is not given")
        kind = kind.value_type
    if _texts_of(kind) is None:
        raise DataError(f"column {name!r} is of type {kind}; there may be texts, numbers, times, and lists of these")


def column_cells(column: Any, split: str | None) -> tuple[Tokens, dict[int, str]]:
    """The cells [N] of an Arrow array, and, by row, what is wrong with those that cannot be used."""
    import pyarrow.compute as compute

    if not _is_list(column.type):
        tokens = _scalars(column)
        return tokens, _rows_of(_control_characters(tokens.values), tokens.codes)
    assert split is not None
    entries = _scalars(compute.list_flatten(column))
    parents = compute.list_parent_indices(column).to_numpy(zero_copy_only=False)
    wrong = _control_characters(entries.values)
    wrong |= {code: f"{text!r} holds {split!r}, which separates the entries"
              for code, text in enumerate(entries.values) if split in text}  # fmt: skip
    texts = np.asarray(entries)
    stops = np.cumsum(np.bincount(parents, minlength=len(column)))
    joined = [split.join(texts[start:stop]) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
    return Tokens(np.arange(len(column)), joined), _rows_of(wrong, entries.codes, parents)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _scalars(column: Any) -> Tokens:
    import pyarrow
    from pyarrow import types

    if types.is_null(column.type):
        return Tokens(np.zeros(len(column), np.int64), [""])
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_float16(column.type):
        column = column.cast(pyarrow.float32())
    if types.is_string(column.type) or types.is_large_string(column.type) or types.is_string_view(column.type):
        column = column.cast(pyarrow.large_binary())
    texts = _texts_of(column.type)
    assert texts is not None
    encoded = column.dictionary_encode()
    codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    return Tokens(codes, [*texts(encoded.dictionary), ""])


def _texts_of(kind: Any) -> Callable[[Any], list[str]] | None:
    """What writes the values [U] of an Arrow array as texts, by its type; None if nothing does."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _texts_of(kind.value_type)
    if types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _bytes
    if types.is_binary(kind) or types.is_large_binary(kind):
        return _bytes
    if types.is_boolean(kind):
        return lambda array: [str(int(value)) for value in array.to_pylist()]
    if types.is_integer(kind):
        return lambda array: list(map(str, array.to_pylist()))
    if types.is_floating(kind):
        return lambda array: [_float(value) for value in array.to_numpy(zero_copy_only=False)]
    if types.is_decimal(kind):
        return lambda array: [f"{value.normalize():f}" for value in array.to_pylist()]
    if types.is_timestamp(kind):
        return lambda array: _seconds(array.cast("int64"), _PER_SECOND[kind.unit])
    if types.is_date32(kind):
        return lambda array: [str(days * _DAY_S) for days in array.cast("int32").to_pylist()]
    if types.is_date64(kind):
        return lambda array: _seconds(array.cast("int64"), _PER_SECOND["ms"])
    return None


def _bytes(array: Any) -> list[str]:
    return [value.decode("utf-8", "backslashreplace").strip() for value in array.to_pylist()]


def _float(value: np.floating) -> str:
    """The shortest text that reads back as this float of its width."""
    return str(int(value)) if value.is_integer() and abs(value) < _EXACT else str(value)


def _seconds(array: Any, per_second: int) -> list[str]:
    return [str(value // per_second) for value in array.to_pylist()]


def _control_characters(texts: Sequence[str]) -> dict[int, str]:
    return {code: "holds a control character (0x00 or 0x1f)"
            for code, text in enumerate(texts) if "\0" in text or "\x1f" in text}  # fmt: skip


def _rows_of(wrong: dict[int, str], codes: np.ndarray, parents: np.ndarray | None = None) -> dict[int, str]:
    """By row, the reason of one of its codes that are ``wrong``; code i is of row i, or of ``parents[i]``."""
    if not wrong:
        return {}
    at = np.flatnonzero(np.isin(codes, list(wrong)))[::-1]
    rows = at if parents is None else parents[at]
    return {row: wrong[code] for row, code in zip(rows.tolist(), codes[at].tolist(), strict=True)}
