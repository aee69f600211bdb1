"""KMRD, ratings of Korean films, rates.csv: user, movie, rate from 1 to 10, time. A click is a rate above 9."""

from data_tools.formats.base import Column, FieldSpec, Format, TextLayout
from dist_fm.data.schema import Label

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
    ),
)
