"""MovieLens ratings: 100k (``u.data``), 1M (``ratings.dat``) and the CSV of 20M and latest (``ratings.csv``).

User and item are the features; the rating is the label (1 above 3, by default); the timestamp only orders the rows.
"""

from data_tools.formats.base import Column, FieldSpec, Format, TextLayout
from dist_fm.data.schema import Label


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
    )


FORMATS = (
    _movielens("movielens-100k", "\t", "MovieLens 100k, u.data: user, item, rating, timestamp, tab separated"),
    _movielens("movielens-1m", "::", "MovieLens 1M, ratings.dat: user::item::rating::timestamp"),
    _movielens("movielens-csv", ",", "MovieLens 20M or latest, ratings.csv: userId,movieId,rating,timestamp"),
)
