"""Explains a run's best weights: which fields count, which pairs of them, which values are alike; and writes vectors.

python -m dist_fm.explain --run=DIR [--data=DIR] [--split=test] [--rows=20000] [--repeats=3] [--seed=0] [--top=20]
    [--output=FILE.json]
python -m dist_fm.explain --run=DIR --field=NAME --value=RAW [--top=20] [--by=cosine|dot] [--column=factors]
python -m dist_fm.explain --run=DIR --embeddings=FILE.npy|FILE.parquet|DIR [--fields=A,B] [--columns=factors]

The first prints by how much AUC and log loss (with mse: RMSE) suffer when one field's values are dealt out anew among
the rows of a split, and, of models that multiply factors, the --top strongest pairs of fields; --output saves all of
it. The second prints the values nearest to one of a field. The third writes the trained vectors with raw values; a
directory is for TensorBoard's projector. The second and third need no data set. Any may add [--devices=N]
[--platform=auto|cpu|gpu] [--quiet], or, with several hosts, what training takes.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Mapping

from jax.sharding import Mesh

from data_tools.encode import Encoder
from data_tools.progress import quietly
from dist_fm.command import run_command
from dist_fm.data.shards import open_split
from dist_fm.errors import UserError, nearest
from dist_fm.explaining.embeddings import write_embeddings
from dist_fm.explaining.importance import permutation_importance
from dist_fm.explaining.neighbours import MEASURES, find_field, neighbours
from dist_fm.explaining.pairs import no_pairs, pair_strengths
from dist_fm.explaining.rows import SomeRows
from dist_fm.explaining.tables import as_json, importance_lines, neighbour_lines, pairs_lines
from dist_fm.files import write_whole
from dist_fm.flags import WHERE_FLAGS, parse_own, where_to_run, whole_number
from dist_fm.parallel.hosts import first_decides, say
from dist_fm.run_dir import RunDir
from dist_fm.training.opening import check_split, data_of, open_best, open_mesh
from dist_fm.training.step import Engine

# What each of its three uses takes, with defaults; the flag that asks for it first.
_NEIGHBOURS = {"field": None, "value": None, "top": "20", "by": "cosine", "column": ""}
_EMBEDDINGS = {"embeddings": None, "fields": "", "columns": ""}
_FIELDS = {"data": "", "split": "test", "rows": "20000", "repeats": "3", "seed": "0", "top": "20", "output": ""}
_LEAST = {"rows": 1, "repeats": 1, "seed": 0, "top": 1}
Flags = Mapping[str, str]
OpenMesh = Callable[[], Mesh]  # later than what can be refused without devices


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    names = {word.partition("=")[0].removeprefix("--") for word in arguments if word.startswith("--")}
    use: Callable[[RunDir, Flags, OpenMesh], None] = _explain_fields
    own: Mapping[str, str | None] = _FIELDS
    if names & {"field", "value"}:
        use, own = _print_neighbours, _NEIGHBOURS
    elif "embeddings" in names:
        use, own = _write_embeddings, _EMBEDDINGS
    flags = parse_own(arguments, {"run": None, **own, **WHERE_FLAGS})
    where = where_to_run(flags)
    with quietly(where.quiet):
        use(RunDir.open(flags["run"]), flags, lambda: open_mesh(where))


def _explain_fields(run: RunDir, flags: Flags, mesh: OpenMesh) -> None:
    split, output = check_split(flags["split"]), pathlib.Path(flags["output"])
    rows, repeats, seed, top = (_count(flags, name, least) for name, least in _LEAST.items())
    if flags["output"] and not output.parent.is_dir():
        raise UserError(f"--output={output}: there is no directory {output.parent}")
    data = data_of(run, flags["data"])
    with open_split(data, split) as store:
        some = SomeRows.draw(store, rows, seed)
    engine, state = open_best(run, mesh())
    importance = permutation_importance(engine, state, some, repeats=repeats, seed=seed)
    say("\n".join(["importance of fields, by permutation", *importance_lines(importance), ""]))
    reason = no_pairs(engine.config.model_name, engine.schema)
    pairs = None if reason else pair_strengths(engine, state, some)
    say("\n".join([reason or "strength of pairs of fields", *(pairs_lines(pairs, top) if pairs else ())]))
    if flags["output"]:
        first_decides(lambda: write_whole(output, json.dumps(as_json(importance, pairs), indent=1) + "\n"))


def _print_neighbours(run: RunDir, flags: Flags, mesh: OpenMesh) -> None:
    if flags["by"] not in MEASURES:
        raise UserError(f"--by={flags['by']}: {nearest(flags['by'], MEASURES)}")
    field, top = find_field(run.schema(), flags["field"]), _count(flags, "top", 1)
    engine, state = open_best(run, mesh())
    column = flags["column"] or _main_column(engine)
    encoder = Encoder.from_directory(run.path)
    found = neighbours(engine, state, encoder, field, flags["value"], column=column, top=top, by=flags["by"])
    say(f"nearest to {field.name} {flags['value']!r}, by {flags['by']} of {column}")
    say("\n".join(neighbour_lines(found)))


def _write_embeddings(run: RunDir, flags: Flags, mesh: OpenMesh) -> None:
    schema = run.schema()
    names = [name for name in flags["fields"].split(",") if name]
    fields = [find_field(schema, name) for name in names] if names else list(schema.fields)
    engine, state = open_best(run, mesh())
    columns = [name for name in flags["columns"].split(",") if name] or [_main_column(engine)]
    rows = write_embeddings(engine, state, Encoder.from_directory(run.path), fields, columns, flags["embeddings"])
    say(f"{flags['embeddings']}: {rows:,} rows of {', '.join(columns)}")


def _count(flags: Flags, name: str, least: int) -> int:
    number = whole_number(name, flags[name])
    if number < least:
        raise UserError(f"--{name}={number}: must be at least {least}")
    return number


def _main_column(engine: Engine) -> str:
    """Factors, or the widest column of models that have none."""
    columns = engine.layout.columns
    return "factors" if "factors" in columns else max(columns, key=lambda name: columns[name].width)


if __name__ == "__main__":
    sys.exit(run_command(main))
