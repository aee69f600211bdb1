"""Frappe, app usage in context, as a CSV of ready ids: label, user, item and eight fields of context, with a header."""

from data_tools.formats.base import Column, FieldSpec, Format, TextLayout
from dist_fm.data.schema import Label

_CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
_ROLES = {"user": "user", "item": "item"}

FORMATS = (
    Format(
        name="frappe",
        about="Frappe app usage, train.csv: label,user,item and eight fields of context, with a header",
        layout=TextLayout(
            "frappe",
            ",",
            (Column("label", "number", required=True), *(Column(name) for name in (*_ROLES, *_CONTEXT))),
            label="label",
        ),
        fields=tuple(FieldSpec(name, role=_ROLES.get(name)) for name in (*_ROLES, *_CONTEXT)),
        label=Label("label", "binary"),
    ),
)
