"""The settings that a grid names, and the runs that train them."""

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Mapping

from dist_fm.config import Config
from dist_fm.data.schema import Schema, read_schema
from dist_fm.errors import UserError
from dist_fm.flags import load_config, parse_flags
from dist_fm.run_dir import RunDir
from dist_fm.training.evaluation import Metrics
from dist_fm.training.progress import monitored
from dist_fm.training.resume import check_same_run


@dataclasses.dataclass(frozen=True)
class Setting:
    """A configuration ``file`` (or None), one value a key of the grid, and the ``flags`` that all settings share."""

    file: str | None
    values: Mapping[str, str]
    flags: Mapping[str, str]

    @property
    def name(self) -> str:
        """`frappe_fm,optimizer.lr=1e-3`, also the name of its directory."""
        first = [pathlib.Path(self.file).stem] if self.file else []
        name = ",".join([*first, *(f"{key}={value}" for key, value in self.values.items())])
        return re.sub(r"[^\w.,=+\[\]-]", "_", name) or "default"

    @functools.cached_property
    def config(self) -> Config:
        return load_config(self.file, {**self.flags, **self.values})

    @functools.cached_property
    def schema(self) -> Schema:
        """Of its data; raises ``UserError`` or ``SchemaError`` where there is none."""
        if not self.config.data.path:
            raise UserError("no data set was given: --data=DIR, made by `data_tools build-lmdb`")
        return read_schema(pathlib.Path(self.config.data.path))


@dataclasses.dataclass(frozen=True)
class Run:
    """A ``setting`` trained from one ``seed``, below ``folder``; ``hook``, if any, is told of its events."""

    setting: Setting
    seed: int
    folder: pathlib.Path
    hook: str = ""

    @property
    def path(self) -> pathlib.Path:
        return self.folder / self.setting.name / f"seed-{self.seed}"

    @property
    def log(self) -> pathlib.Path:
        """What the run prints."""
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def arguments(self) -> list[str]:
        """Of dist_fm.train."""
        flags = {**self.setting.flags, **self.setting.values, "seed": str(self.seed), "output_dir": str(self.path)}
        own = {key: value for key, value in (("config", self.setting.file), ("hook", self.hook)) if value}
        return [*(f"--{key}={value}" for key, value in [*own.items(), *flags.items()]), "--quiet"]

    def check(self) -> None:
        """Raises ``UserError`` or ``SchemaError`` when it cannot be trained, or its directory holds another run."""
        config, schema, found = self.setting.config, self.setting.schema, RunDir(self.path)
        if found.config_file.is_file():
            then = found.config()
            update = then.tables.update if config.tables.update == "auto" else config.tables.update
            wanted = dataclasses.replace(
                config,
                train=dataclasses.replace(config.train, seed=self.seed),
                tables=dataclasses.replace(config.tables, update=update),
            )
            check_same_run(then, wanted, found.schema(), schema, self.path)

    def result(self) -> dict | None:
        """What a finished run has found; None when there is still something to train."""
        found = RunDir(self.path)
        result = found.result()
        if not result:
            return None
        now, then = self.setting.config.train, found.config().train
        longer = (now.epochs, now.steps) != (then.epochs, then.steps)
        return None if longer and not result["stopped_early"] else result

    def value(self, metrics: Metrics) -> float | None:
        """What the setting is judged by, to be as large as possible."""
        return monitored(self.setting.config.train, metrics)


def settings_of(files: str, grid: str, flags: Mapping[str, str]) -> list[Setting]:
    """All settings of comma-separated configuration ``files`` and of ``grid``, `KEY=A,B; KEY=[1,2],[3]`.

    Raises ``UserError`` where the grid cannot be read, names a key that flags give, or two settings are one.
    """
    if "seed" in flags or "train.seed" in flags:
        raise UserError("a sweep draws its seeds itself: --seeds=N trains from 0 to N - 1")
    keys: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in grid.split(";"))):
        key, equals, text = part.partition("=")
        values = [value.strip() for value in re.split(r",(?![^\[(]*[\])])", text)]  # not in brackets
        if not equals or not all(values):
            raise UserError(f"--grid={part!r}: must be KEY=VALUE,VALUE, several keys apart by semicolons")
        key = next(iter(parse_flags([f"--{key.strip()}={values[0]}"])[0]))
        if key in keys or key in flags:
            raise UserError(f"--grid names {key!r}, which is given twice")
        if key in ("seed", "train.seed", "output_dir", "run.output_dir"):
            raise UserError(f"--grid cannot hold {key!r}: a sweep sets it itself")
        keys[key] = values
    settings = [
        Setting(file, dict(zip(keys, values, strict=True)), flags)
        for file in (files.split(",") if files else [None])
        for values in itertools.product(*keys.values())
    ]
    names = [setting.name for setting in settings]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two settings of the sweep are called {', '.join(sorted(twice))}")
    return settings
