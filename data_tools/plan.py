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
from data_tools.formats import FieldSpec, Format, SideTable, get_format
from data_tools.formats.reader import CHUNK_BYTES
from data_tools.labels import format_rule, parse_rule
from data_tools.manifest import sum_file
from dist_fm.data.schema import Label
from dist_fm.data.store import DEFAULT_BLOCK_ROWS, DEFAULT_MAP_SIZE

ENGINES = ("local", "ray")


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What ``build`` is asked for. ``split_files`` (train, valid, test; None for none) replaces ``inputs`` for
    ``split="files"``. None for ``label``, ``min_count`` and ``name`` is the format's own."""

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


@dataclasses.dataclass(frozen=True)
class Plan:
    """The options with every default filled in and checked."""

    options: BuildOptions
    format: Format
    label: Label
    min_count: int
    files: tuple[tuple[str, int], ...]  # path, and the split it is for with split="files"
    tables: tuple[tuple[SideTable, str], ...] = ()

    @classmethod
    def of(cls, options: BuildOptions) -> "Plan":
        chosen = get_format(options.format, options.schema)
        if options.split not in splitting.KINDS:
            raise unknown("split", options.split, splitting.KINDS)
        if options.engine not in ENGINES:
            raise unknown("engine", options.engine, ENGINES)
        label = parse_rule(options.label, chosen.label.column) if options.label else chosen.label
        min_count = chosen.min_count if options.min_count is None else options.min_count
        for name, given in (("min_count", min_count), ("block_rows", options.block_rows), ("workers", options.workers)):
            if given < 1:
                raise DataError(f"--{name}={given}: must be at least 1")
        if options.split == "files":
            if options.inputs or options.split_files[0] is None:
                raise DataError("--split=files takes --train=FILE (and --valid=FILE, --test=FILE) instead of --input")
            files = tuple((path, number) for number, path in enumerate(options.split_files) if path is not None)
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
        known = {table.name: table for table in chosen.tables}
        for name, _ in options.tables:
            if name not in known:
                raise unknown(f"side table of {chosen.name}", name, known)
        plan = cls(
            options, chosen, label, min_count, files, tuple((known[name], path) for name, path in options.tables)
        )
        if options.split in splitting.NEEDS_USERS and plan.user_column is None:
            raise DataError(f"--split={options.split} needs a user field, which {chosen.name} rows do not have")
        return plan

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The format's fields, and those of its side tables that are given."""
        return self.format.fields + tuple(field for table, _ in self.tables for field in table.fields)

    @property
    def user_column(self) -> str | None:
        """The raw column of the user field, if there is one."""
        return next((field.columns[0] for field in self.fields if field.role == "user"), None)

    def spread(self, function: Callable[[Any, Any], Any], shared: Any, tasks: Iterable[Any]) -> Any:
        """``function(shared, task)`` for each task, by the engine: a context manager of the results, in order."""
        if self.options.engine == "ray":
            return contextlib.closing(on_ray.ordered_map(function, shared, tasks, self.options.workers))
        # A file of one piece is not worth starting processes.
        total_bytes = sum(os.path.getsize(path) for path, _ in self.files if os.path.exists(path))
        number = self.options.workers if total_bytes > self.options.chunk_bytes else 1
        return contextlib.closing(workers.ordered_map(function, shared, tasks, number))

    def to_json(self) -> dict[str, Any]:
        """What decides the data set's content, apart from its inputs."""
        options = self.options
        return {
            "format": self.format.name,
            "fields": json.loads(json.dumps([dataclasses.asdict(field) for field in self.fields])),
            "name": options.name or self.format.name,
            "label": format_rule(self.label),
            "min_count": self.min_count,
            "vocab_from": options.vocab_from and load_schema(pathlib.Path(options.vocab_from)).fingerprint,
            "grow": options.grow,
            "tables": [[table.name, path, *sum_file(path)] for table, path in self.tables],
            "split": options.split,
            "fractions": list(options.fractions),
            "seed": options.seed,
            "strict": options.strict,
            "block_rows": options.block_rows,
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
