"""Criteo's display advertising log, raw: label, 13 counts, 26 hashed categories, tab separated, empty = missing.

The rules are torchfm's: counts become log-squared bins, and a value seen fewer than 10 times, a bin or a missing cell
included, shares one id (here the unseen id). A missing cell seen often enough is a value of its own.
"""

from data_tools.formats.base import Column, FieldSpec, Format, TextLayout
from dist_fm.data.schema import Label

_COUNTS = tuple(f"I{number}" for number in range(1, 14))
_CATEGORIES = tuple(f"C{number}" for number in range(1, 27))

FORMATS = (
    Format(
        name="criteo",
        about="Criteo display advertising, train.txt: label, I1-I13, C1-C26, tab separated",
        layout=TextLayout(
            "criteo",
            "\t",
            (
                Column("label", "number", required=True),
                *(Column(name, "integer") for name in _COUNTS),
                *(Column(name) for name in _CATEGORIES),
            ),
            label="label",
        ),
        fields=(
            *(FieldSpec(name, "binned", transform={"as": "log_squared_bin"}) for name in _COUNTS),
            *(FieldSpec(name) for name in _CATEGORIES),
        ),
        label=Label("label", "binary"),
        min_count=10,
    ),
)
