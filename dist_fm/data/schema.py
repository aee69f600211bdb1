"""What a data set holds: fields, slots, table rows, label, and the fingerprint that ties models to vocabularies.

Every feature value has one *row* in a single logical embedding table: ``row = field.offset + id``, computed when the
data is built. Row ``field.offset`` (id 0) is the field's "unseen" row, or "missing" for a numeric field. A field owns
``field.slots`` consecutive columns (slots) of every record; its embedding is the sum over its slots of value x row.
Unless it is not pooled: each of its slots then is a model's input by itself, of value x row, and one whose value is 0
is not there.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

FORMAT_VERSION = 1
BUILDING = ".building"  # ends the name of a directory that is being built
EMPTY = -1  # the row id of a slot that holds nothing; it adds zero to its field
KINDS = ("categorical", "binned", "numeric", "sequence")
ROLES = ("user", "item", "item_side", "timestamp", "group")  # item_side: an attribute of the item


class SchemaError(ValueError):
    """A schema, or a directory that should hold one, that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One feature field: ``rows`` table rows from ``offset`` on, read from ``slots`` columns of a record.

    ``vocabulary`` names the file under ``vocab/`` that turns raw values into ids (None: ids as they are, or numeric);
    fields that share a vocabulary share rows. ``vocabulary_sha256`` is that file's digest. ``transform`` is what the
    encoder does to a raw value before the vocabulary, as plain JSON. The slots of a ``sequence`` hold its entries in
    order, oldest first, then ``EMPTY``: its length is the number of filled ones. A model that knows no sequences
    takes their sum by values, as of any field.
    """

    name: str
    kind: str
    rows: int
    offset: int
    slots: int = 1
    role: str | None = None
    vocabulary: str | None = None
    vocabulary_sha256: str | None = None
    transform: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise SchemaError(f"field {self.name!r}: kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.role is not None and self.role not in ROLES:
            raise SchemaError(f"field {self.name!r}: role {self.role!r} is not one of {', '.join(ROLES)}")
        if self.rows < 1 or self.slots < 1 or self.offset < 0:
            raise SchemaError(f"field {self.name!r}: rows and slots must be positive, offset not negative")

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that it is made of: one, or those of a cross."""
        return tuple(self.transform.get("cross") or [self.transform.get("column", self.name)])

    @property
    def is_pooled(self) -> bool:
        """Whether its slots are summed up to one input of a model."""
        return self.transform.get("pool") != "none"


@dataclasses.dataclass(frozen=True)
class Label:
    """Where the label comes from: raw ``column``, turned into a number by ``rule``.

    Rules: ``above`` (1 if the number is greater than ``threshold``, else 0), ``binary`` (must be 0 or 1), ``signed``
    (0 or 1, and -1 for 0), ``value`` (the number itself, for regression), ``implicit`` (1, whatever the column holds,
    if there is one).
    """

    column: str
    rule: str
    threshold: float | None = None

    @property
    def is_binary(self) -> bool:
        return self.rule in ("above", "binary", "signed", "implicit")


@dataclasses.dataclass(frozen=True)
class Schema:
    """The whole description of a data set's records; the same for all its splits.

    ``source`` tells the raw format the fields were read from, so that prediction can read such rows again.
    ``counts`` is per split ``{"rows", "positives", "blocks"}``, and outside the fingerprint. With ``has_weights`` each
    record has a weight, with ``has_groups`` a group: rows of the same number belong together, in all splits. Where
    ``valid_is_test``, the valid split is a copy of test, on which the best epoch is then chosen.
    """

    name: str
    fields: tuple[Field, ...]
    label: Label
    has_values: bool = False
    has_weights: bool = False
    has_groups: bool = False
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    valid_is_test: bool = False
    version: int = FORMAT_VERSION

    def __post_init__(self):
        if not (self.has_values or all(field.is_pooled for field in self.fields)):
            raise SchemaError(f"data set {self.name!r}: slots that are not pooled need values, which tell empty ones")

    @property
    def num_fields(self) -> int:
        return len(self.fields)

    @property
    def num_slots(self) -> int:
        return sum(field.slots for field in self.fields)

    @property
    def num_rows(self) -> int:
        """Rows of the logical embedding table."""
        return max(field.offset + field.rows for field in self.fields)

    @property
    def slot_fields(self) -> np.ndarray:
        """The field of each slot: int32 [S]."""
        return np.repeat(np.arange(self.num_fields, dtype=np.int32), [field.slots for field in self.fields])

    @property
    def slot_offsets(self) -> np.ndarray:
        """The first row of each slot's field, which is its unseen (or missing) row: int32 [S]."""
        return np.array([field.offset for field in self.fields], np.int32)[self.slot_fields]

    @property
    def slot_inputs(self) -> np.ndarray:
        """The input that each slot belongs to, int32 [S]: what a model sees as a field, [B, F, width] in all."""
        fields = self.slot_fields
        is_first = np.diff(fields, prepend=-1) > 0
        return (np.cumsum(is_first | ~self._slot_is_pooled) - 1).astype(np.int32)

    @property
    def num_inputs(self) -> int:
        return int(self.slot_inputs[-1]) + 1

    def filled_inputs(self, values: Any) -> Any:
        """Which inputs are there, bool [B, F], by ``values`` [B, S], NumPy's or JAX's; None where all always are."""
        if self._slot_is_pooled.all():
            return None
        first = np.unique(self.slot_inputs, return_index=True)[1]
        return (values[:, first] != 0) | self._slot_is_pooled[first]

    @property
    def _slot_is_pooled(self) -> np.ndarray:
        return np.array([field.is_pooled for field in self.fields])[self.slot_fields]

    def field_with_role(self, role: str) -> int:
        """The index of the one field with ``role``; raises ``SchemaError`` when there is none or more than one."""
        found = [i for i, field in enumerate(self.fields) if field.role == role]
        if len(found) != 1:
            roles = {field.name: field.role for field in self.fields}
            raise SchemaError(f"data set {self.name!r} needs exactly one field with role {role!r}; its roles: {roles}")
        return found[0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over fields, kinds, transforms, vocabulary contents and offsets; never counts, splits or files."""
        about = {
            "version": self.version,
            "fields": [dataclasses.asdict(field) for field in self.fields],
            "has_values": self.has_values,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        about = dataclasses.asdict(self)
        about["fingerprint"] = self.fingerprint
        return json.dumps(about, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "schema.json") -> "Schema":
        """Parses ``to_json``'s text; raises ``SchemaError`` naming ``where`` when it is not one, or was altered."""
        try:
            about = json.loads(text)
            if about["version"] != FORMAT_VERSION:
                raise SchemaError(
                    f"{where}: format version {about['version']}, but this dist_fm reads version {FORMAT_VERSION}"
                )
            fingerprint = about.pop("fingerprint")
            about["fields"] = tuple(Field(**field) for field in about["fields"])
            about["label"] = Label(**about["label"])
            schema = cls(**about)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, SchemaError):
                raise
            raise SchemaError(f"{where} is not a data set's schema: {error}") from error
        if schema.fingerprint != fingerprint:
            raise SchemaError(f"{where} was changed after it was written: its fingerprint does not match its fields")
        return schema


def is_finished(directory: pathlib.Path) -> bool:
    """Whether ``directory`` holds a finished data set: its manifest, and the name that a build gives it at last."""
    unfinished = directory.name.startswith(".") and directory.name.endswith(BUILDING)
    return (directory / "manifest.json").is_file() and not unfinished


def read_schema(directory: str | pathlib.Path) -> Schema:
    """The schema of the finished data set in ``directory``; raises ``SchemaError`` if no manifest marks it finished."""
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise SchemaError(f"{directory}: no such directory; `data_tools build-lmdb --output={directory}` makes one")
    if not is_finished(directory):
        raise SchemaError(
            f"{directory} has no manifest.json, so it is not a finished data set; build it with "
            f"`data_tools build-lmdb --output={directory}`"
        )
    path = directory / "schema.json"
    if not path.is_file():
        raise SchemaError(f"{directory} has a manifest.json but no schema.json; it is damaged: build it again")
    return Schema.from_json(path.read_text(encoding="utf-8", errors="replace"), where=str(path))
