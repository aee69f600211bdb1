"""KMRD, ratings of Korean films, rates.csv: user, movie, rate from 1 to 10, time. A click is a rate above 9.

What is known of the films lies in files of its own, some with a line for each of a film's genres, countries, people.
"""

from data_tools.formats.base import Column, FieldSpec, Format, SideTable, TextLayout
from dist_fm.data.schema import Label

_LIST = "|"


def _list(table: str, field: str, most: int) -> SideTable:
    """A file with a line for each entry: movie, ``field``, and perhaps more."""
    layout = TextLayout(table, ",", (Column("movie"), Column(field)))
    transform = {"take": field, "split": _LIST, "max": most, "pool": "mean"}
    spec = FieldSpec(table, column="movie", transform=transform)
    return SideTable(table, f"movie {field}", "movie", layout, (spec,), gather=_LIST)


_MOVIES = SideTable(
    "movies",
    "movie title title_eng year grade",
    "movie",
    TextLayout("movies", "\t", tuple(map(Column, ("movie", "title", "title_eng", "year", "grade")))),
    tuple(FieldSpec(name, column="movie", transform={"take": name}) for name in ("year", "grade")),
)

FORMATS = (
    Format(
        name="kmrd",
        about="KMRD film ratings, rates.csv: user,movie,rate,time",
        layout=TextLayout(
            "kmrd",
            ",",
            (
                Column("user", required=True),
                Column("movie", required=True),
                Column("rate", "number", required=True),
                Column("time", "integer", required=True),
            ),
            label="rate",
            timestamp="time",
        ),
        fields=(FieldSpec("user", role="user"), FieldSpec("movie", role="item")),
        label=Label("rate", "above", 9.0),
        tables=(
            _MOVIES,
            _list("genres", "genre", 8),
            _list("countries", "country", 5),
            _list("castings", "people", 10),
        ),
    ),
)
