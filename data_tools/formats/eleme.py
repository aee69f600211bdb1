"""The ele.me click log: 39 comma-separated columns without a header; lists of up to 50 entries separated by ``;``.

Fields as in DeepRec's scripts: ids are hashed to 10,000 rows, a list of ids shares its single column's rows and is
averaged, prices and hours of a list are averaged as numbers, and meal times have a vocabulary. The weekdays, which
those scripts leave out, are left out.
"""

from data_tools.formats.base import Column, FieldSpec, Format, TextLayout
from dist_fm.data.schema import Label

BUCKETS = 10_000
_LIST = {"split": ";", "max": 50, "pool": "mean"}
COLUMNS = (
    *("clicked", "user_id", "gender", "visit_city", "avg_price", "is_supervip", "ctr_30", "ord_30", "total_amt_30"),
    *("shop_id", "item_id", "city_id", "district_id", "shop_aoi_id", "shop_geohash_6", "shop_geohash_12", "brand_id"),
    *("category_1_id", "merge_standard_food_id", "rank_7", "rank_30", "rank_90", "shop_id_list", "item_id_list"),
    *("category_1_id_list", "merge_standard_food_id_list", "brand_id_list", "price_list", "shop_aoi_id_list"),
    *("shop_geohash6_list", "timediff_list", "hours_list", "time_type_list", "weekdays_list", "times", "hours"),
    *("time_type", "weekdays", "geohash12"),
)
_NUMBERS = ("gender", "avg_price", "is_supervip", "ctr_30", "ord_30", "total_amt_30", "rank_7", "rank_30", "rank_90")
_SHARED = {
    **{f"{name}_list": name for name in ("shop_id", "item_id", "category_1_id", "merge_standard_food_id", "brand_id")},
    **{"shop_aoi_id_list": "shop_aoi_id", "shop_geohash6_list": "shop_geohash_6", "geohash12": "shop_geohash_12"},
    **{"visit_city": "city_id", "time_type_list": "time_type"},
}


def _field(name: str) -> FieldSpec:
    if name in (*_NUMBERS, "hours"):
        return FieldSpec(name, "numeric", transform={"fill": -99.0 if name == "gender" else 0.0}, scale="standard")
    if name in ("price_list", "hours_list"):
        return FieldSpec(name, "numeric", transform={"split": ";", "reduce": "mean"}, scale="standard")
    hashed = {} if name.startswith("time_type") else {"buckets": BUCKETS}
    role = {"user_id": "user", "item_id": "item"}.get(name)
    listed = _LIST if name.endswith("_list") else {}
    return FieldSpec(name, role=role, transform={**hashed, **listed}, shares=_SHARED.get(name))


FORMATS = (
    Format(
        name="ele-me",
        about="ele.me click log: 39 comma-separated columns, lists separated by ';'",
        layout=TextLayout(
            "ele-me",
            ",",
            tuple(
                Column(
                    name,
                    "number" if name in ("clicked", "hours", *_NUMBERS) else "token",
                    required=name == "clicked",
                    split=";" if name.endswith("_list") else None,
                )
                for name in COLUMNS
            ),
            label="clicked",
        ),
        fields=tuple(_field(name) for name in COLUMNS[1:] if not name.startswith("weekdays")),
        label=Label("clicked", "binary"),
    ),
)
