"""From the command line and a TOML file to a configuration: `--section.key=value`, short flags, and refusals.

Precedence: flags over the file over defaults. Dashes in names equal underscores.
"""

import dataclasses
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from dist_fm.config import SECTION_TYPES, SECTIONS, Config, FlagValue, RunConfig, build_config, build_section, key_types
from dist_fm.errors import UserError, nearest
from dist_fm.models import MODELS, get_model

SHORT_FLAGS = {
    "data": "data.path",
    "model": "model.name",
    "loss": "train.loss",
    "devices": "run.devices",
    "batch_size": "train.batch_size",
    "epochs": "train.epochs",
    "steps": "train.steps",
    "optimizer": "optimizer.name",
    "lr": "optimizer.lr",
    "embed_dim": "model.embed_dim",
    "l2_embedding": "optimizer.l2_embedding",
    "l2_network": "optimizer.l2_network",
    "seed": "train.seed",
    "bf16": "train.bf16",
    "no_eval": "train.no_eval",
    "eval_steps": "train.eval_steps",
    "save_steps": "run.save_steps",
    "save_minutes": "run.save_minutes",
    "hosts": "run.hosts",
    "host": "run.host",
    "coordinator": "run.coordinator",
    "keep_checkpoint_max": "run.keep_checkpoint_max",
    "output_dir": "run.output_dir",
    "resume": "run.resume",
    "log_every": "run.log_steps",
    "timeline": "run.timeline",
    "platform": "run.platform",
    "init_from": "train.init_from",
    "quiet": "run.quiet",
}
# What the trainers people come from call the same thing; refused with the name to use here.
COUNTERPARTS = {
    "learning_rate": "lr",
    "embed_size": "embed_dim",
    "embedding_dim": "embed_dim",
    "embedding_size": "embed_dim",
    "gpu_ids": "devices",
    "gpus": "devices",
    "num_gpus": "devices",
    "data_location": "data",
    "data_path": "data",
    "dataset": "data",
    "model_name": "model",
    "num_epochs": "epochs",
    "epoch": "epochs",
    "max_steps": "steps",
    "checkpoint": "output_dir",
    "checkpoint_dir": "output_dir",
    "model_dir": "output_dir",
    "save_dir": "output_dir",
    "weight_decay": "l2_embedding and --l2_network",
    "l2_reg": "l2_embedding and --l2_network",
    "loss_type": "loss",
    "random_seed": "seed",
    "dropout_rate": "model.dropout",
    "deep_layers": "model.mlp_dims",
    "hidden_units": "model.mlp_dims",
}


def load_config(file: str | None, flags: Mapping[str, str]) -> Config:
    """The configuration from a TOML ``file`` (or None) and parsed ``flags`` (see ``parse_flags``)."""
    sections: dict[str, dict[str, Any]] = {}
    if file is not None:
        sections = _read_toml(file)
    for flag, value in flags.items():
        path = _flag_path(flag)
        section, key = path.split(".", 1)
        sections.setdefault(section, {})[key] = FlagValue(flag, value)
    return build_config(sections, file or "the flags")


def parse_flags(arguments: Sequence[str], own: Sequence[str] = ()) -> tuple[dict[str, str], dict[str, str]]:
    """Splits command-line ``arguments`` into configuration flags and the command's ``own`` flags.

    Forms: ``--key=value``, ``--key value``, and ``--key`` alone for booleans. Dashes in names equal underscores.
    """
    flags: dict[str, str] = {}
    others: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"unexpected argument {word!r}; flags look like --name=value")
        name, has_value, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name in own:
            key_type: Any = str
        else:
            key_type = _flag_type(name, own)
        if not has_value:
            if key_type is bool and (not rest or rest[0].startswith("--")):
                value = "true"
            elif rest and not rest[0].startswith("--"):
                value = rest.pop(0)
            else:
                raise UserError(f"--{name} needs a value: --{name}=...")
        (others if name in own else flags)[name] = value
    return flags, others


def _flag_type(name: str, own: Sequence[str]) -> Any:
    """The type of the key that flag ``name`` sets; a model's own keys count as text until the model is known."""
    path = _flag_path(name, own)
    section, key = path.split(".", 1)
    if section == "model":
        return bool if key in _boolean_model_keys() else str
    return key_types(SECTION_TYPES[section])[key]


def _flag_path(flag: str, own: Sequence[str] = ()) -> str:
    if flag in SHORT_FLAGS:
        return SHORT_FLAGS[flag]
    if flag in COUNTERPARTS:
        raise UserError(f"--{flag} is --{COUNTERPARTS[flag]} here")
    section, dot, key = flag.partition(".")
    if dot and section == "model":
        return flag
    if dot and section in SECTIONS and key in key_types(SECTION_TYPES[section]):
        return flag
    keys = [f"{s}.{k}" for s, kind in SECTION_TYPES.items() if s != "model" for k in key_types(kind)]
    same_leaf = [known for known in keys if known.split(".", 1)[1] == key]
    if dot and same_leaf:
        raise UserError(f"unknown flag --{flag}; did you mean --{same_leaf[0]}?")
    raise UserError(f"unknown flag --{flag}; {nearest(flag, [*own, *SHORT_FLAGS, *keys], prefix='--')}")


def _boolean_model_keys() -> set[str]:
    return {k for name in MODELS for k, kind in key_types(get_model(name).Config).items() if kind is bool}


def _read_toml(file: str) -> dict[str, dict[str, Any]]:
    path = pathlib.Path(file)
    if not path.is_file():
        raise UserError(f"--config={file}: no such file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config={file} is not TOML: {error}") from error


def help_text() -> str:
    """All keys with defaults and meanings, for `--help`."""
    lines = ["Short flags: " + " ".join(f"--{flag}" for flag in SHORT_FLAGS), ""]
    for section, kind in SECTION_TYPES.items():
        assert isinstance(kind, type)
        if section == "model":
            lines.append("--model.KEY=VALUE  hyper-parameters of the chosen model (its dataclass in dist_fm/models/)")
            continue
        for field in dataclasses.fields(kind):
            choices = "|".join(field.metadata.get("choices", ()))
            shown = f" ({choices})" if choices else ""
            lines.append(f"--{section}.{field.name}={field.default}  {field.metadata['help']}{shown}")
    return "\n".join(lines)


def parse_own(arguments: Sequence[str], known: Mapping[str, str | None]) -> dict[str, str]:
    """The flags of a small command: ``known`` names them with their defaults, None where one must be given.

    One that is ``false`` by default may be given without a value.
    """
    return parse_repeated(arguments, known)[0]


def parse_repeated(
    arguments: Sequence[str], known: Mapping[str, str | None], repeated: str = ""
) -> tuple[dict[str, str], list[str]]:
    """As ``parse_own``, and all values of the flag ``repeated``, in order; of other flags the last value counts."""
    given: dict[str, str] = {}
    values: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--"):
            raise UserError(f"unexpected argument {word!r}; flags look like --name=value")
        if name not in known:
            raise UserError(f"unknown flag --{name}; {nearest(name, known, prefix='--')}")
        if not has_value:
            if rest and not rest[0].startswith("--"):
                value = rest.pop(0)
            elif known[name] == "false":
                value = "true"
            else:
                raise UserError(f"--{name} needs a value: --{name}=...")
        given[name] = value
        if name == repeated:
            values.append(value)
    for name, default in known.items():
        if name not in given:
            if default is None:
                raise UserError(f"--{name}=... must be given")
            given[name] = default
    return given, values


def whole_number(flag: str, text: str) -> int:
    """``text`` as a number of 0 or more; raises ``UserError`` naming ``flag``."""
    if not text.isdigit():
        raise UserError(f"--{flag}={text}: must be a whole number")
    return int(text)


# Where a small command runs, and how quietly: the flags of section [run] that say so, with their defaults.
WHERE_FLAGS = {"devices": "0", "platform": "auto", "hosts": "0", "host": "-1", "coordinator": "", "quiet": "false"}


def where_to_run(flags: Mapping[str, str]) -> RunConfig:
    """The ``WHERE_FLAGS`` among ``flags`` as a section [run]; raises ``UserError`` for a bad value."""
    given = {name: FlagValue(name, flags[name]) for name in WHERE_FLAGS}
    return build_section("run", RunConfig, given, "the flags")
