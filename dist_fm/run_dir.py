"""One run, one directory: its files, written whole or not at all.

config.toml (resolved), schema.json and vocab/ (so that prediction needs no data set), metrics.jsonl (a line an event),
TensorBoard's events, checkpoints/ and best/, result.json (last: a run that has it is finished), report.html (made from
all of it).
"""

import json
import pathlib
import re
import shutil
import tomllib
from typing import Any

from dist_fm import __version__
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

    @property
    def report_file(self) -> pathlib.Path:
        return self.path / "report.html"

    def event_files(self) -> list[pathlib.Path]:
        """TensorBoard's."""
        return sorted(self.path.glob("events.out.tfevents.*"))

    def create(self, config: Config, data: pathlib.Path) -> None:
        """Makes the directory, with copies of ``data``'s schema and vocabularies; config.toml, last, marks it.

        A result of fewer epochs, with which a longer run goes on, is no longer the run's, and removed with its report.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("result.json", "report.html"):
            (self.path / name).unlink(missing_ok=True)
        if (data / "vocab").is_dir():
            shutil.copytree(data / "vocab", self.path / "vocab", dirs_exist_ok=True)
        write_whole(self.path / "schema.json", (data / "schema.json").read_text(encoding="utf-8"))
        self.write_config(config)

    def write_config(self, config: Config) -> None:
        write_whole(self.config_file, f"# dist_fm {__version__}\n{config.to_toml()}")

    @property
    def version(self) -> str | None:
        """The version of dist_fm that made the run, as config.toml's first line has it; None if it does not."""
        with open(self.config_file, encoding="utf-8", errors="replace") as file:
            found = re.fullmatch(r"# dist_fm (\S+)", file.readline().rstrip("\n"))
        return found[1] if found else None

    @property
    def about_version(self) -> str:
        """What to add to an error where the run was made by another version than this, or by one that did not say."""
        made = self.version
        if made == __version__:
            return ""
        return f" (the run was made by dist_fm {made or 'of an unknown version'}, this is {__version__})"

    def config(self) -> Config:
        try:
            sections = tomllib.loads(self.config_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{self.config_file} is not TOML: the run is damaged: {error}") from error
        try:
            return build_config(sections, str(self.config_file))
        except UserError as error:
            raise UserError(f"{error}{self.about_version}") from error

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

    def events(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, but a torn last one; raises ``UserError`` where another is no event."""
        lines = self.metrics_file.read_bytes().splitlines(keepends=True) if self.metrics_file.is_file() else []
        events = []
        for number, line in enumerate(lines, 1):
            try:
                event = json.loads(line)
                step, split = event["step"], event["split"]
            except (ValueError, KeyError, TypeError) as error:
                if not line.endswith(b"\n"):
                    break
                raise UserError(
                    f"{self.metrics_file}:{number}: not an event with step and split: {line[:80]!r}{self.about_version}"
                ) from error
            if not (isinstance(step, int) and isinstance(split, str)):
                raise UserError(f"{self.metrics_file}:{number}: step {step!r}, split {split!r}{self.about_version}")
            events.append(event)
        return events

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
