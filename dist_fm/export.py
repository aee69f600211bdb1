"""Writes a finished run's model for other runtimes, after comparing it with the run's own predictions.

python -m dist_fm.export --run=DIR --format=onnx|stablehlo|savedmodel|tflite|npz --output=DIR [--data=DIR]
    [--unfinished=true] [--devices=N] [--platform=auto|cpu|gpu]

The model takes `ids` int32 [batch, slots], and `values` float32 [batch, slots] if the data set has them, of any number
of rows, and gives `probability` float32 [batch] (with mse: `prediction`). OUTPUT also gets schema.json and vocab/, with
which data_tools.encode.Encoder turns raw values into ids, and export.json, which says what was written and compared.
The comparison is on 1,000 rows of the test split, of --data or of the data set that the run was trained on; where that
is gone, on rows drawn from the fields' ids. --unfinished=true takes the best weights so far of a run that goes on.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
from typing import Any

import jax

from dist_fm.command import run_command
from dist_fm.errors import UserError
from dist_fm.exporting.comparison import Agreement, compare, rows_to_compare
from dist_fm.exporting.formats import FORMATS, check_size, get_format
from dist_fm.exporting.scoring import Scoring, in_float32
from dist_fm.files import new_directory
from dist_fm.flags import WHERE_FLAGS, parse_own, where_to_run
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import predictions
from dist_fm.training.opening import open_best, open_mesh


def main(arguments: list[str]) -> None:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return
    own = {"run": None, "format": None, "output": None, "data": "", "unfinished": "false"}
    flags = parse_own(arguments, {**own, "devices": "0", "platform": "auto"})
    chosen = get_format(flags["format"])
    run, output = RunDir.open(flags["run"]), pathlib.Path(flags["output"])
    if not _is_true("unfinished", flags["unfinished"]):
        _check_finished(run)
    _check_new(output)
    schema, config = run.schema(), run.config()
    rows = rows_to_compare(schema, flags["data"] or config.data.path, given=bool(flags["data"]))
    mesh = open_mesh(where_to_run({**WHERE_FLAGS, **flags}))
    if jax.process_count() > 1:
        raise UserError(f"export runs on one host, not on {jax.process_count()}: start it outside the launcher")
    engine, state = open_best(run, mesh)
    engine = in_float32(engine)
    expected = predictions(engine, state, rows.ids, rows.values)
    scoring = Scoring.of(engine, state)
    del state
    check_size(flags["format"], scoring.num_bytes)

    with new_directory(output) as made:
        chosen.write(scoring, made / chosen.file)
        agreement = compare(chosen.load(made / chosen.file, scoring), rows, expected, output / chosen.file)
        if (run.path / "vocab").is_dir():
            shutil.copytree(run.path / "vocab", made / "vocab")
        (made / "schema.json").write_text(schema.to_json(), encoding="utf-8")
        about = json.dumps(_about(flags["format"], scoring, agreement), indent=1)
        (made / "export.json").write_text(about + "\n", encoding="utf-8")
    print(
        f"{output / chosen.file}: {config.model_name}, {scoring.num_bytes:,} bytes of weights; differs by "
        f"{agreement.largest_difference:.1g} at most on {agreement.rows} rows ({agreement.rows_from})"
    )


def _about(name: str, scoring: Scoring, agreement: Agreement) -> dict[str, Any]:
    """What export.json says."""
    config = scoring.engine.config
    slots = scoring.schema.num_slots
    return {
        "format": name,
        "file": FORMATS[name].file,
        "inputs": {key: {"dtype": str(dtype), "shape": ["batch", slots]} for key, dtype in scoring.inputs.items()},
        "outputs": {scoring.output: {"dtype": "float32", "shape": ["batch"]}},
        "compared": dataclasses.asdict(agreement),
        "model": config.to_dict()["model"],
        "loss": config.train.loss,
        "negative_rate": config.data.negative_rate,
        "fingerprint": scoring.schema.fingerprint,
        "versions": FORMATS[name].versions(),
    }


def _check_finished(run: RunDir) -> None:
    # A run that was imported has neither a result nor events.
    if run.result() is None and run.metrics_file.is_file():
        raise UserError(
            f"{run.path} is not finished: it has no result.json. Start the command that trains it again, which goes on "
            "where it stopped, or give --unfinished=true to export its best weights so far"
        )


def _check_new(output: pathlib.Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"--output={output}: it exists and is not an empty directory; give a new one")
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output={output}: there is no directory {output.parent}")


def _is_true(flag: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise UserError(f"--{flag}={text}: must be true or false")
    return text == "true"


if __name__ == "__main__":
    sys.exit(run_command(main))
