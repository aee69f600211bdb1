"""Scores raw rows with a run's best checkpoint.

python -m dist_fm.predict --run=DIR --input=raw.csv --output=scores.csv [--keep=user,item] [--devices=N] [--quiet]

The input has the rows of the training format, as text or as parquet, label optional: with a header it is matched by
name, in any order, and extra columns are ignored. The output has a line a row, `row,score`: the row's number from 0,
and its probability (or rating). A row that cannot be read gets an empty score and a line in OUTPUT.errors. Needs no
data set. With several hosts, as in training, all read the input, each scores its part, and the first writes.
"""

import contextlib
import csv
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from data_tools.encode import Encoder
from data_tools.formats import Chunk, TextLayout, open_rows
from data_tools.progress import Progress, quietly
from dist_fm.command import run_command
from dist_fm.errors import UserError
from dist_fm.files import replacing
from dist_fm.flags import WHERE_FLAGS, parse_own, where_to_run
from dist_fm.parallel.hosts import is_first
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import predictions
from dist_fm.training.opening import open_best, open_mesh


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    known = {"run": None, "input": None, "output": None, "keep": "", **WHERE_FLAGS}
    flags = parse_own(arguments, known)
    run, output = RunDir.open(flags["run"]), pathlib.Path(flags["output"])
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: there is no directory {output.parent}")
    keep = tuple(name for name in flags["keep"].split(",") if name)
    layout = TextLayout.from_json(run.schema().source)
    columns = tuple(map(layout.name_of, keep))
    rows = open_rows(layout, flags["input"], for_prediction=True, keep=columns)
    encoder = Encoder.from_directory(run.path)
    where = where_to_run(flags)
    engine, state = open_best(run, open_mesh(where))

    hushed = quietly(where.quiet or not is_first())
    with _written_whole(output) as (scores, errors), hushed, Progress("predict", rows.text_bytes, "B") as bar:
        writer = csv.writer(scores, lineterminator="\n")
        writer.writerow(["row", "score", *keep])
        for chunk in rows:
            numbers = predictions(engine, state, *encoder.encode(chunk.columns))
            kept = [np.asarray(chunk.columns[name]) for name in columns]
            writer.writerows(_lines(chunk, numbers, kept))
            errors.writelines(f"{flags['input']}:{bad.line}: {bad.reason}: {bad.raw}\n" for bad in chunk.bad)
            bar.advance(chunk.num_bytes, chunk.num_rows)


def _lines(chunk: Chunk, scores: np.ndarray, kept: Sequence[np.ndarray]) -> Iterator[list[Any]]:
    """Output lines of good and bad rows in the order of the file."""
    texts = [f"{number:.9g}" for number in scores]
    good = zip(chunk.lines.tolist(), texts, *(column.tolist() for column in kept), strict=True)
    if not chunk.bad:
        for row, (_, *cells) in enumerate(good, chunk.first_row):
            yield [row, *cells]
        return
    empty = [""] * (1 + len(kept))
    merged = [*((line, cells) for line, *cells in good), *((bad.line, empty) for bad in chunk.bad)]
    merged.sort(key=lambda found: found[0])  # rows of one line stay in their order
    for row, (_, cells) in enumerate(merged, chunk.first_row):
        yield [row, *cells]


@contextlib.contextmanager
def _written_whole(output: pathlib.Path) -> Iterator[tuple[TextIO, TextIO]]:
    """Files beside ``output`` and ``output``.errors that take their places only when all rows are written.

    Not on hosts but the first, where they lead nowhere.
    """
    if not is_first():
        with open(os.devnull, "w") as nowhere:
            yield nowhere, nowhere
        return
    errors = output.with_name(output.name + ".errors")
    with replacing(errors) as bad_lines, replacing(output) as lines:
        with open(lines, "w", newline="", encoding="utf-8") as scores, open(bad_lines, "w", encoding="utf-8") as bad:
            yield scores, bad
    if not errors.stat().st_size:
        errors.unlink()


if __name__ == "__main__":
    sys.exit(run_command(main))
