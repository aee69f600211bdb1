"""Avazu's click log: id, click, hour (YYMMDDHH) and 21 anonymous categories, with a header line.

The id names the row, and is no feature. The hour gives hour of the day, weekday and weekend, and orders the rows.
"""

from data_tools.formats.base import Column, FieldSpec, Format, TextLayout
from dist_fm.data.schema import Label

_CATEGORIES = (
    *("C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{number}" for number in range(14, 22)),
)
_TIMES = tuple(FieldSpec(part, transform={"as": part, "format": "%y%m%d%H"}, column="hour") for part in
               ("hour", "weekday", "weekend"))  # fmt: skip

FORMATS = (
    Format(
        name="avazu",
        about="Avazu click-through rate, train.csv: click, hour and 21 categories, with a header; its id is left out",
        layout=TextLayout(
            "avazu",
            ",",
            (Column("click", "number", required=True), Column("hour", "integer", required=True))
            + tuple(Column(name) for name in _CATEGORIES),
            label="click",
            timestamp="hour",
            needs_header=True,
        ),
        fields=_TIMES + tuple(FieldSpec(name) for name in _CATEGORIES),
        label=Label("click", "binary"),
        min_count=4,
    ),
)
