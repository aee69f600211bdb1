"""The rows of a build, coded and written: by workers into shards, or, where a split is one store, by this process."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_tools.encode import Encoder
from data_tools.plan import Plan
from data_tools.portions import Portion
from data_tools.progress import Progress
from data_tools.raw_rows import RawRows
from data_tools.split import SPLITS
from dist_fm.data.records import RecordLayout
from dist_fm.data.shards import shard_ends, store_names
from dist_fm.data.store_map import StoreMeta
from dist_fm.data.store_writer import BlockWriter

Counts = dict[str, dict[str, int]]


class _Part(NamedTuple):
    """Rows of a portion, indices [n] or all, and their groups."""

    path: pathlib.Path
    rows: np.ndarray | slice
    groups: np.ndarray | None


def write(plan: Plan, encoder: Encoder, rows: RawRows, splits: np.ndarray, staging: pathlib.Path) -> Counts:
    """Writes the stores of all splits, ``splits`` [N]; returns the schema's counts."""
    group = plan.format.layout.group
    groups = None if group is None else rows.coded[group].codes
    layout = RecordLayout.for_schema(encoder.schema)
    if plan.options.shards > 1:
        return _write_shards(plan, (encoder, layout), rows, splits, groups, staging)
    encoding = plan.spread(_encode, (encoder, layout), rows.by_portion(splits, groups))
    with contextlib.ExitStack() as stack, encoding as encoded:
        writers = [
            stack.enter_context(
                BlockWriter(staging / f"{name}.lmdb", layout, plan.options.block_rows, plan.options.map_size)
            )
            for name in SPLITS
        ]
        with Progress("writing", rows.count, "row") as progress:
            for (path, count), records in zip(rows.portions, encoded, strict=True):
                for writer, own in zip(writers, records, strict=True):
                    writer.append(own)
                path.unlink()  # the data set takes about the room that they did
                progress.advance(count, count)
        return {name: _counts([writer.close()]) for name, writer in zip(SPLITS, writers, strict=True)}


def _counts(metas: Sequence[StoreMeta]) -> dict[str, int]:
    return {name: sum(getattr(meta, name) for meta in metas) for name in ("rows", "positives", "blocks")}


def _encode(
    shared: tuple[Encoder, RecordLayout], task: tuple[pathlib.Path, np.ndarray, np.ndarray | None]
) -> list[np.ndarray]:
    """The records of one portion for each split."""
    path, splits, groups = task
    records = _records(*shared, _Part(path, slice(None), groups))
    return [records[splits == number] for number in range(len(SPLITS))]


def _records(encoder: Encoder, layout: RecordLayout, part: _Part) -> np.ndarray:
    portion, at = Portion.load(part.path), part.rows
    columns = {name: column.select(at) for name, column in portion.columns.items()}
    weights = None if portion.weights is None else portion.weights[at]
    return layout.pack(portion.labels[at], *encoder.encode(columns), weights, part.groups)


def _write_shards(
    plan: Plan,
    shared: tuple[Encoder, RecordLayout],
    rows: RawRows,
    splits: np.ndarray,
    groups: np.ndarray | None,
    staging: pathlib.Path,
) -> Counts:
    """One task a shard, which reads the portions that it has rows of."""
    shards, block_rows = plan.options.shards, plan.options.block_rows

    def tasks() -> Iterator[tuple[pathlib.Path, list[_Part]]]:
        for number, name in enumerate(SPLITS):
            own = np.flatnonzero(splits == number)
            parts = np.split(own, shard_ends(len(own), shards, block_rows)[:-1])
            for store, of_shard in zip(store_names(name, shards), parts, strict=True):
                yield staging / store, list(_parts(rows, of_shard, groups))

    options = block_rows, plan.options.map_size
    writing = plan.spread(_write_shard, (*shared, *options), tasks())
    with writing as written, Progress("writing", rows.count, "row") as progress:
        metas = []
        for meta in written:
            metas.append(meta)
            progress.advance(meta.rows, meta.rows)
    return {name: _counts(metas[at * shards : (at + 1) * shards]) for at, name in enumerate(SPLITS)}


def _parts(rows: RawRows, chosen: np.ndarray, groups: np.ndarray | None) -> Iterator[_Part]:
    """Rows ``chosen`` of all, ascending, by portion."""
    ends = np.cumsum([count for _, count in rows.portions])
    cuts = np.searchsorted(chosen, ends)
    for (path, count), end, first, last in zip(rows.portions, ends, [0, *cuts], cuts, strict=False):
        if first < last:
            own = chosen[first:last]
            yield _Part(path, own - (end - count), None if groups is None else groups[own])


def _write_shard(shared: tuple[Encoder, RecordLayout, int, int], task: tuple[pathlib.Path, list[_Part]]) -> StoreMeta:
    (encoder, layout, block_rows, map_size), (path, parts) = shared, task
    with BlockWriter(path, layout, block_rows, map_size) as writer:
        for part in parts:
            writer.append(_records(encoder, layout, part))
        return writer.close()
