"""What is learnt of a data set's fields from its training rows: vocabularies, scales, bins, and so table rows."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_tools.errors import DataError
from data_tools.formats.base import MAX_ID, FieldSpec
from data_tools.summaries import IdSummary, NumberSummary, Summary, TokenSummary
from data_tools.transforms import fit_edges, fit_scale
from data_tools.vocab import Vocabulary
from dist_fm.data.schema import Field

Fitted = tuple[tuple[Field, ...], dict[str, Vocabulary]]


class Fit:
    """Fits ``specs``. Those that share rows get the same vocabulary, or buckets, and the same offset.

    ``summaries`` are to be filled before ``fields``; they may use ``directory`` for what memory does not hold.
    """

    def __init__(self, specs: Sequence[FieldSpec], min_count: int, directory: pathlib.Path):
        self.specs, self._min_count = specs, min_count
        self._groups: dict[str, list[FieldSpec]] = {}
        for spec in specs:
            self._groups.setdefault(spec.shares or spec.name, []).append(spec)
        found = {group: self._summarize(group, members, directory) for group, members in self._groups.items()}
        self._of_group = {group: summary for group, summary in found.items() if summary is not None}

    @property
    def summaries(self) -> list[Summary]:
        return list(self._of_group.values())

    @staticmethod
    def _summarize(group: str, members: list[FieldSpec], directory: pathlib.Path) -> Summary | None:
        first = members[0]
        if first.kind == "numeric":
            return NumberSummary(first) if first.scale != "none" else None
        if first.bins:
            return NumberSummary(first)
        if "buckets" in first.transform:
            return None
        if "add" in first.transform:
            return IdSummary(first)
        return TokenSummary(members, directory / group)

    def fields(self, directory: pathlib.Path) -> Fitted:
        """The fields, with their offsets, and the vocabularies by file name, saved in ``directory``."""
        fields: dict[str, Field] = {}
        vocabularies: dict[str, Vocabulary] = {}
        offset = 0
        for group, members in self._groups.items():
            transforms = {spec.name: self._transform(spec, group) for spec in members}
            first, summary = members[0], self._of_group.get(group)
            file = digest = None
            if first.kind == "numeric":
                rows = 2
            elif "buckets" in first.transform:
                rows = first.transform["buckets"] + 1
            elif isinstance(summary, IdSummary):
                rows = summary.rows
            else:
                vocabulary = self._choose(first, summary, transforms[first.name])
                file, rows = f"{group}.tsv", vocabulary.rows
                digest = vocabulary.save(directory / file)
                vocabularies[file] = vocabulary
            for spec in members:
                fields[spec.name] = Field(
                    name=spec.name,
                    kind=spec.kind,
                    rows=rows,
                    offset=offset,
                    slots=_slots(spec),
                    role=spec.role,
                    vocabulary=file,
                    vocabulary_sha256=digest,
                    transform=transforms[spec.name],
                )
            offset += rows
            _check_rows(group, rows, offset)
        return tuple(fields[spec.name] for spec in self.specs), vocabularies

    def _choose(self, first: FieldSpec, summary: Summary | None, transform: Mapping[str, Any]) -> Vocabulary:
        least = self._min_count if first.min_count is None else first.min_count
        if isinstance(summary, NumberSummary):
            return Vocabulary.choose(*summary.bins(transform["edges"]), least)
        assert isinstance(summary, TokenSummary)
        return Vocabulary.choose(*summary.counter.often(least), least)

    def _transform(self, spec: FieldSpec, group: str) -> dict[str, Any]:
        """The transform with what training rows say of scale and bins, for a field as it is stored."""
        transform = dict(spec.transform)
        if spec.column is not None and spec.column != spec.name:
            transform["column"] = spec.column
        if "buckets" in transform and group != spec.name:
            transform["salt"] = group
        summary = self._of_group.get(group)
        if isinstance(summary, NumberSummary):
            numbers, counts = summary.counter.all()
            if spec.kind == "numeric":
                transform |= fit_scale(spec.scale, numbers, counts)
            else:
                transform["edges"] = fit_edges(spec.bins, numbers, counts)
        return transform


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """The fields of an earlier data set as they are."""

    specs: tuple[Field, ...]
    vocabularies: dict[str, Vocabulary]
    summaries: Sequence[Summary] = ()

    def fields(self, directory: pathlib.Path) -> Fitted:
        """The fields, and the vocabularies by file name, which are in ``directory``."""
        return self.specs, self.vocabularies


class Growth:
    """Fits the ``fields`` of an earlier data set to further values, which come behind the old ones.

    A value keeps its id within the field; offsets move. Scales, edges and buckets stay. ``min_counts`` by field.
    ``summaries`` are to be filled before ``fields``.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        vocabularies: Mapping[str, Vocabulary],
        min_counts: Mapping[str, int],
        directory: pathlib.Path,
    ):
        self.specs, self._vocabularies, self._min_counts = fields, vocabularies, min_counts
        members: dict[int, list[Field]] = {}
        for field in fields:
            members.setdefault(field.offset, []).append(field)
        self._groups = [alike for _, alike in sorted(members.items())]
        found = {alike[0].name: self._summarize(alike, directory) for alike in self._groups}
        self._of_group = {name: summary for name, summary in found.items() if summary is not None}

    @property
    def summaries(self) -> list[Summary]:
        return list(self._of_group.values())

    @staticmethod
    def _summarize(alike: list[Field], directory: pathlib.Path) -> Summary | None:
        if alike[0].vocabulary is not None:
            return TokenSummary(alike, directory / alike[0].name)
        return IdSummary(alike[0]) if "add" in alike[0].transform else None

    def fields(self, directory: pathlib.Path) -> Fitted:
        """The fields, with their new offsets, and the grown vocabularies by file name, saved in ``directory``."""
        grown: dict[str, Field] = {}
        found: dict[str, Vocabulary] = {}
        offset = 0
        for alike in self._groups:
            first, summary = alike[0], self._of_group.get(alike[0].name)
            rows, digest = first.rows, None
            if isinstance(summary, TokenSummary) and first.vocabulary is not None:
                old, least = self._vocabularies[first.vocabulary], self._min_counts[first.name]
                vocabulary = old.grown(*summary.counter.often(least, also=old), least)
                found[first.vocabulary], rows = vocabulary, vocabulary.rows
                digest = vocabulary.save(directory / first.vocabulary)
            elif isinstance(summary, IdSummary):
                rows = max(rows, summary.rows)
            for field in alike:
                grown[field.name] = dataclasses.replace(field, rows=rows, offset=offset, vocabulary_sha256=digest)
            offset += rows
            _check_rows(first.name, rows, offset)
        return tuple(grown[field.name] for field in self.specs), found


def _check_rows(name: str, rows: int, total: int) -> None:
    if total > MAX_ID:
        raise DataError(f"field {name!r} has {rows:,} table rows, {total:,} with the fields before it: more than ids "
                        "of 32 bits can tell apart; make it of kind hash or categorical")  # fmt: skip


def _slots(spec: FieldSpec) -> int:
    if spec.kind == "numeric":
        return 2 if spec.transform.get("missing") else 1
    return spec.transform.get("entries") or (spec.transform["max"] if "split" in spec.transform else 1)


def needed_columns(specs: Sequence[FieldSpec]) -> list[str]:
    """The raw columns that ``specs`` are made of, each once."""
    return list(dict.fromkeys(name for spec in specs for name in spec.columns))
