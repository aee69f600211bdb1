"""Warnings about fields and labels from which nothing, or nothing that lasts, can be learnt."""

from collections.abc import Iterable, Iterator, Mapping

from data_tools.transforms import is_plain
from dist_fm.data.schema import Field, Label

UNIQUE_SHARE = 0.95  # of the training rows hold a value of their own
_FEWEST_ROWS = 100  # of fewer it says nothing that values differ


def warnings(
    fields: Iterable[Field], distinct: Mapping[str, int], label: Label, train: Mapping[str, int]
) -> Iterator[str]:
    """Warnings, a line each, on fields that hold ``distinct`` values, by name, in ``train["rows"]`` training rows.

    A field is constant if it has one value in all training rows. It names rows, and nothing else, if it has at least
    ``UNIQUE_SHARE`` as many values as there are training rows, 100 or more, each a category.
    """
    rows, positives = train["rows"], train["positives"]
    constant, unique = [], []
    for field in fields:
        values = distinct.get(field.name)
        if values == 1:
            constant.append(field.name)
        elif values and field.kind == "categorical" and is_plain(field.transform) and values >= UNIQUE_SHARE * rows:
            unique.append(field.name)
    if constant:
        yield f"warning: the same value in all {rows:,} training rows: {', '.join(constant)}"
    if unique and rows >= _FEWEST_ROWS:
        share = f"{UNIQUE_SHARE:.0%} of {rows:,} or more"
        yield f"warning: nearly as many values as training rows ({share}), as a row's number has: {', '.join(unique)}"
    if label.is_binary and positives in (0, rows):
        said = f"warning: every training row has the label {int(positives > 0)}"
        hint = "; --negatives=N samples others, or training does by --data.negatives=N"
        yield said + hint if label.rule == "implicit" else said
