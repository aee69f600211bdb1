"""MovieLens ratings: 100k (``u.data``), 1M (``ratings.dat``) and the CSV of 20M and latest (``ratings.csv``).

User and item are the features; the rating is the label (1 above 3, by default); the timestamp only orders the rows.
Attributes of users and films come from files of their own.
"""

from data_tools.formats.base import Column, FieldSpec, Format, SideTable, TextLayout
from dist_fm.data.schema import Label

_MOST_GENRES = 10


def _take(name: str, key: str, **transform: str | int) -> FieldSpec:
    return FieldSpec(name, column=key, transform={"take": name, **transform})


def _table(name: str, key: str, delimiter: str, columns: str, fields: tuple[FieldSpec, ...]) -> SideTable:
    """``columns``: their names, each with its header in the file, if that has one, behind a slash."""
    parts = [column.partition("/") for column in columns.split()]
    found = tuple(Column(name, header=header or None) for name, _, header in parts)
    return SideTable(name, columns, key, TextLayout(name, delimiter, found), fields)


def _genres(separator: str) -> FieldSpec:
    return _take("genres", "item", split=separator, max=_MOST_GENRES, pool="mean")


_YEAR = FieldSpec("year", column="item", transform={"take": "title", "as": "title_year"})
_PERSON = tuple(_take(name, "user") for name in ("gender", "age", "occupation"))
_TABLES = {
    "movielens-100k": (
        _table(
            *("users", "user", "\t", "user_id/user_id:token age/age:token gender/gender:token "
              "occupation/occupation:token zip/zip_code:token", _PERSON)
        ),
        _table(
            *("items", "item", "\t", "item_id/item_id:token title/movie_title:token_seq year/release_year:token "
              "genres/class:token_seq", (_take("year", "item"), _genres(" ")))
        ),
    ),
    "movielens-1m": (
        _table("users", "user", "::", "user_id gender age occupation zip", _PERSON),
        _table("items", "item", "::", "item_id title genres", (_YEAR, _genres("|"))),
    ),
    "movielens-csv": (_table("items", "item", ",", "movieId title genres", (_YEAR, _genres("|"))),),
}  # fmt: skip


def _movielens(name: str, delimiter: str, about: str) -> Format:
    columns = (
        Column("user", required=True, header="userId"),
        Column("item", required=True, header="movieId"),
        Column("rating", "number", required=True),
        Column("timestamp", "integer", required=True),
    )
    return Format(
        name=name,
        about=about,
        layout=TextLayout(name, delimiter, columns, label="rating", timestamp="timestamp"),
        fields=(FieldSpec("user", role="user"), FieldSpec("item", role="item")),
        label=Label("rating", "above", 3.0),
        tables=_TABLES[name],
    )


FORMATS = (
    _movielens("movielens-100k", "\t", "MovieLens 100k, u.data: user, item, rating, timestamp, tab separated"),
    _movielens("movielens-1m", "::", "MovieLens 1M, ratings.dat: user::item::rating::timestamp"),
    _movielens("movielens-csv", ",", "MovieLens 20M or latest, ratings.csv: userId,movieId,rating,timestamp"),
)
