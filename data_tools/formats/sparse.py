"""libsvm and libffm: rows of a label and any number of entries, each an index with a value, in libffm with a field.

Their fields are not known before the files are read: ``data_tools/entry_fields.py`` adds them.
"""

from data_tools.formats.base import Column, Format, TextLayout
from dist_fm.data.schema import Label


def _sparse(name: str, about: str) -> Format:
    layout = TextLayout(name, " ", (Column("label", "number", required=True),), label="label", syntax=name)
    return Format(name, about, layout, (), Label("label", "signed"))


FORMATS = (
    _sparse("libsvm", "label index:value ..., label -1 for 0; one field of entries that are not pooled"),
    _sparse("libffm", "label field:index:value ..., label -1 for 0; the entries of a field are summed"),
)
