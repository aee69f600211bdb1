"""One run, one directory: its files, written whole or not at all.

config.toml (resolved), schema.json and vocab/ (so that prediction needs no data set), metrics.jsonl (a line an event),
TensorBoard's events, checkpoints/ and best/, result.json (last: a run that has it is finished).
"""

import json
import pathlib
import shutil
import tomllib
from typing import Any

from dist_fm.config import Config, build_config
from dist_fm.data.schema import Schema, SchemaError
from dist_fm.errors import UserError
from dist_fm.files import write_whole


class RunDir:
    """The directory of a run, existing or to be made."""

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)

    @classmethod
    def open(cls, path: str | pathlib.Path) -> "RunDir":
        """An existing run; raises ``UserError`` when ``path`` is none."""
        run = cls(path)
        if not run.config_file.is_file():
            raise UserError(f"--run={path} is not a run: it has no config.toml (`python -m dist_fm.train` makes runs)")
        return run

    @classmethod
    def of(cls, config: Config) -> "RunDir":
        """Where ``config`` says that its run goes."""
        data = pathlib.Path(config.data.path)
        return cls(config.run.output_dir or f"runs/{data.resolve().name}_{config.model_name}")

    @property
    def config_file(self) -> pathlib.Path:
        return self.path / "config.toml"

    @property
    def metrics_file(self) -> pathlib.Path:
        return self.path / "metrics.jsonl"

    def event_files(self) -> list[pathlib.Path]:
        """TensorBoard's."""
        return sorted(self.path.glob("events.out.tfevents.*"))

    def create(self, config: Config, data: pathlib.Path) -> None:
        """Makes the directory, with copies of ``data``'s schema and vocabularies; config.toml, last, marks it.

        A result of fewer epochs, with which a longer run goes on, is no longer the run's, and removed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "result.json").unlink(missing_ok=True)
        if (data / "vocab").is_dir():
            shutil.copytree(data / "vocab", self.path / "vocab", dirs_exist_ok=True)
        write_whole(self.path / "schema.json", (data / "schema.json").read_text(encoding="utf-8"))
        write_whole(self.config_file, config.to_toml())

    def config(self) -> Config:
        try:
            sections = tomllib.loads(self.config_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{self.config_file} is not TOML: the run is damaged: {error}") from error
        return build_config(sections, str(self.config_file))

    def schema(self) -> Schema:
        path = self.path / "schema.json"
        if not path.is_file():
            raise SchemaError(f"{path} is missing: the run is damaged")
        return Schema.from_json(path.read_text(encoding="utf-8", errors="replace"), where=str(path))

    def result(self) -> dict[str, Any] | None:
        path = self.path / "result.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError as error:
            raise UserError(f"{path} is not JSON: the run is damaged; without it the run goes on: {error}") from error

    def write_result(self, result: dict[str, Any]) -> None:
        write_whole(self.path / "result.json", json.dumps(result, indent=1) + "\n")

    def cut_metrics(self, step: int, evaluated: bool = True) -> None:
        """Drops the events after ``step``, which a resumed run will write again, and a torn last line.

        Also an evaluation at ``step``, unless it was ``evaluated`` when it was saved: it is made again, too.
        """
        if not self.metrics_file.is_file():
            return
        kept = []
        for line in self.metrics_file.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                break
            again = event["step"] == step and event["split"] != "train" and not evaluated
            if event["step"] <= step and not again:
                kept.append(line.decode() + "\n")
        write_whole(self.metrics_file, "".join(kept))

    def clear(self) -> None:
        """Removes what a run made here, and nothing else."""
        for name in ("config.toml", "result.json", "metrics.jsonl", "schema.json"):
            (self.path / name).unlink(missing_ok=True)
        for name in ("checkpoints", "best", "vocab", "timeline"):
            shutil.rmtree(self.path / name, ignore_errors=True)
