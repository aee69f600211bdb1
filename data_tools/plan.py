"""What a build is asked for, and the same with every default filled in and checked."""

import contextlib
import dataclasses
import glob
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from data_tools import on_ray, workers
from data_tools import split as splitting
from data_tools.encode import load_schema
from data_tools.errors import DataError, unknown
from data_tools.formats import FieldSpec, Format, Rows, SideTable, get_format, open_rows
from data_tools.formats.reader import CHUNK_BYTES
from data_tools.labels import format_rule, parse_rule
from data_tools.left_out import RULE, LeftOut, Remaining, parse_left_out
from data_tools.manifest import sum_file
from data_tools.negatives import SampledNegatives
from dist_fm.data.schema import Label
from dist_fm.data.shards import MAX_SHARDS
from dist_fm.data.store_writer import DEFAULT_BLOCK_ROWS, DEFAULT_MAP_SIZE

ENGINES = ("local", "ray")


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What ``build`` is asked for. ``split_files`` (train, valid, test; None for none) replaces ``inputs`` for
    ``split="files"``; valid may be ``leave_one_out[:NEGATIVES]``. None for ``label``, ``min_count`` and ``name`` is the
    format's own."""

    format: str
    output: str
    inputs: tuple[str, ...] = ()
    split_files: tuple[str | None, str | None, str | None] = (None, None, None)
    label: str | None = None
    min_count: int | None = None
    split: str = "random"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    strict: bool = False
    overwrite: bool = False
    block_rows: int = DEFAULT_BLOCK_ROWS
    shards: int = 1  # stores a split is written to
    map_size: int = DEFAULT_MAP_SIZE
    name: str | None = None
    schema: str | None = None
    tables: tuple[tuple[str, str], ...] = ()  # names and files of the format's side tables
    vocab_from: str | None = None  # data set or run whose fields and vocabularies are used
    grow: bool = False
    max_entries: int | None = None  # of a field, in libsvm and libffm rows; None: as many as any row has
    pool: str | None = None  # of such entries; None: the format's own
    engine: str = "local"
    workers: int = 1  # they fork, which a caller with threads (JAX) may not want
    memory_bytes: int = 1 << 30  # what the counts of values may take, before they go to disk
    chunk_bytes: int = CHUNK_BYTES  # of text that one worker parses at a time
    rows: int | None = None  # only so many rows of the input, or, with split="files", of each file
    negatives: int = 0  # sampled for each row of a format whose rows are all positive


@dataclasses.dataclass(frozen=True)
class Plan:
    """The options with every default filled in and checked."""

    options: BuildOptions
    format: Format
    label: Label
    min_count: int
    files: tuple[tuple[str, int], ...]  # path, and the split it is for with split="files"
    tables: tuple[tuple[SideTable, str], ...] = ()
    left_out: int | None = None  # negatives of each row that is left out of the training file for the valid split

    @classmethod
    def of(cls, options: BuildOptions) -> "Plan":
        chosen = get_format(options.format, options.schema)
        if options.split not in splitting.KINDS:
            raise unknown("split", options.split, splitting.KINDS)
        if options.engine not in ENGINES:
            raise unknown("engine", options.engine, ENGINES)
        label = parse_rule(options.label, chosen.label.column) if options.label else chosen.label
        left_out = None
        min_count = chosen.min_count if options.min_count is None else options.min_count
        for name in ("block_rows", "shards", "workers"):
            if getattr(options, name) < 1:
                raise DataError(f"--{name}={getattr(options, name)}: must be at least 1")
        if min_count < 1:
            raise DataError(f"--min_count={min_count}: must be at least 1")
        if options.shards > MAX_SHARDS:
            raise DataError(f"--shards={options.shards}: at most {MAX_SHARDS:,}")
        if options.split == "files":
            if options.inputs or options.split_files[0] is None:
                raise DataError("--split=files takes --train=FILE (and --valid=FILE, --test=FILE) instead of --input")
            train, valid, test = options.split_files
            left_out = parse_left_out(valid)
            paths = (train, valid if left_out is None else train, test)
            files = tuple((path, number) for number, path in enumerate(paths) if path is not None)
        else:
            if not options.inputs or any(options.split_files):
                raise DataError("needs --input=FILE; --train, --valid and --test go with --split=files")
            files = tuple((path, 0) for path in expand(options.inputs))
        if options.split in splitting.NEEDS_TIMES and chosen.layout.timestamp is None:
            raise DataError(f"--split={options.split} needs timestamps, which {chosen.name} rows do not have")
        if options.grow and options.vocab_from is None:
            raise DataError("--grow adds to the vocabularies of --vocab_from=DIR, which is not given")
        if options.vocab_from is not None and options.tables:
            raise DataError("--table does not go with --vocab_from, which has the side tables of its data set")
        if options.rows is not None and options.rows < 1:
            raise DataError(f"--rows={options.rows}: must be at least 1")
        known = {table.name: table for table in chosen.tables}
        for name, _ in options.tables:
            if name not in known:
                raise unknown(f"side table of {chosen.name}", name, known)
        tables = tuple((known[name], path) for name, path in options.tables)
        plan = cls(options, chosen, label, min_count, files, tables, left_out)
        if options.split in splitting.NEEDS_USERS and plan.field_of("user") is None:
            raise DataError(f"--split={options.split} needs a user field, which {chosen.name} rows do not have")
        if options.negatives:
            plan.check_negatives()
        if left_out is not None:
            plan.check_implicit(f"--valid={RULE}")
        return plan

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The format's fields, and those of its side tables that are given."""
        return self.format.fields + tuple(field for table, _ in self.tables for field in table.fields)

    def spread(self, function: Callable[[Any, Any], Any], shared: Any, tasks: Iterable[Any]) -> Any:
        """``function(shared, task)`` for each task, by the engine: a context manager of the results, in order."""
        if self.options.engine == "ray":
            return contextlib.closing(on_ray.ordered_map(function, shared, tasks, self.options.workers))
        # A file of one piece is not worth starting processes.
        total_bytes = sum(os.path.getsize(path) for path, _ in self.files if os.path.exists(path))
        number = self.options.workers if total_bytes > self.options.chunk_bytes else 1
        return contextlib.closing(workers.ordered_map(function, shared, tasks, number))

    def field_of(self, role: str) -> FieldSpec | None:
        """The first field with ``role``."""
        return next((field for field in self.fields if field.role == role), None)

    def own_rows(self, rows: Rows, split: int) -> Rows:
        """Of ``rows`` of a file those that are for ``split``, and, if they are asked for, sampled negatives."""
        user, items, seed = self.field_of("user"), self._item_columns(), self.options.seed
        if user is None or not items:
            return rows
        if self.left_out is not None and split == 0:
            rows = Remaining(rows, user.columns[0], items, seed)
        if self.left_out is not None and split == 1:
            test = self.options.split_files[2]
            others = None if test is None else open_rows(self.format.layout, test, label=self.label)
            rows = LeftOut(rows, user.columns[0], items, seed, self.left_out, others)
        if self.options.negatives:
            rows = SampledNegatives(rows, user.columns[0], items, self.options.negatives, seed)
        return rows

    def _item_columns(self) -> tuple[str, ...]:
        """The columns that say which item a row has, its own first."""
        item = self.field_of("item")
        sides = [field for field in self.fields if field.role == "item_side"]
        return tuple(dict.fromkeys(name for field in (item, *sides) for name in field.columns)) if item else ()

    def check_negatives(self) -> None:
        """Raises ``DataError`` unless negatives can be sampled."""
        given = f"--negatives={self.options.negatives}"
        if self.options.negatives < 0:
            raise DataError(f"{given}: must not be negative")
        self.check_implicit(given)
        if self.options.split == "leave_one_out":
            raise DataError(f"{given} does not go with --split=leave_one_out, which would leave negatives out")

    def check_implicit(self, given: str) -> None:
        """Raises ``DataError``, of the flag ``given``, unless all rows are positives, each of a user and an item."""
        if self.label.rule != "implicit":
            raise DataError(f"{given} goes with rows that are all positive (--label=implicit); these have the label "
                            f"rule {format_rule(self.label)}")  # fmt: skip
        for role in ("user", "item"):
            if self.field_of(role) is None:
                raise DataError(f"{given} needs a field with the role {role!r}, which {self.format.name} does not have")

    def to_json(self) -> dict[str, Any]:
        """What decides the data set's content, apart from its inputs."""
        options = self.options
        return {
            "format": self.format.name,
            "layout": json.loads(json.dumps(self.format.layout.to_json())),
            "fields": json.loads(json.dumps([dataclasses.asdict(field) for field in self.fields])),
            "name": options.name or self.format.name,
            "label": format_rule(self.label),
            "min_count": self.min_count,
            "vocab_from": options.vocab_from and load_schema(pathlib.Path(options.vocab_from)).fingerprint,
            "grow": options.grow,
            "tables": [[table.name, path, *sum_file(path)] for table, path in self.tables],
            "rows": options.rows,
            "negatives": options.negatives,
            "left_out": self.left_out,
            "split": options.split,
            "fractions": list(options.fractions),
            "seed": options.seed,
            "strict": options.strict,
            "block_rows": options.block_rows,
            "shards": options.shards,
        }


def expand(patterns: Sequence[str]) -> list[str]:
    """The files that ``patterns`` name, those of a glob in the order of their names; raises ``DataError`` for none."""
    files: list[str] = []
    for pattern in patterns:
        found = [pattern] if os.path.exists(pattern) or not glob.has_magic(pattern) else sorted(glob.glob(pattern))
        if not found:
            raise DataError(f"--input={pattern}: no file has such a name")
        files += found
    return files
