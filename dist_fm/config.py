"""The whole configuration: one frozen dataclass a section, filled strictly from plain nested values.

`model` holds the chosen model's own hyper-parameters. Anything unknown, of the wrong type or out of bounds is an error
that names the key, what is allowed and the nearest match.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from dist_fm.errors import UserError, nearest
from dist_fm.models import ALIASES, get_model
from dist_fm.models.base import ModelConfig

TOP_K_METRICS = ("ndcg", "recall", "hr")
GROUP_METRICS = ("gauc", *TOP_K_METRICS)  # what takes a data set whose rows have groups


def _choice(default: str, *choices: str, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"choices": choices, "help": help})


def _key(default: Any, help: str, **bounds: float) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **bounds})


@dataclasses.dataclass(frozen=True)
class DataConfig:
    path: str = _key("", "data set directory made by `data_tools build-lmdb`")
    unseen_rate: float = _key(
        0.005, "share of training ids made unseen, so that the unseen row is trained", min=0, max=1
    )
    negative_rate: float = _key(
        1.0,
        "share of the negatives that training keeps, the same in every epoch; logits are corrected by its logarithm",
        above=0,
        max=1,
    )
    negatives: int = _key(
        0,
        "negatives with each training row, drawn anew every epoch: the row with the label 0 and another item, one that "
        "the user has no training row of",
        min=0,
    )
    shuffle: str = _choice(
        "exact",
        *("exact", "window"),
        help="exact: any order of all rows, every host reads them all; window: of blocks, and of the rows of some at a "
        "time, for data larger than memory",
    )
    readers: int = _key(16, "window: parts that the rows and every batch are cut into; hosts share them evenly", min=1)
    window_blocks: int = _key(16, "window: blocks of a reader that are in memory and shuffled at a time", min=1)
    read_threads: int = _key(
        0, "threads that read and prepare batches; 0: one where there are one or two cores, else two", min=0
    )


@dataclasses.dataclass(frozen=True)
class TablesConfig:
    update: str = _choice(
        "auto",
        *("auto", "dense", "sparse"),
        help="dense: optax passes over the whole table at every step; sparse: only rows in the batch are updated; "
        "auto: dense while table and optimizer slots are under 256 MB, unless a setting below needs sparse",
    )
    placement: str = _choice(
        "auto",
        *("auto", "replicated", "sharded"),
        help="replicated: every device holds the table; sharded: its rows are spread over all devices; "
        "auto: sharded when table and slots pass a third of a device's memory",
    )
    dtype: str = _choice(
        "float32",
        *("float32", "bfloat16"),
        help="how table rows are stored; bfloat16 rows are rounded stochastically, their slots and sums stay float32",
    )
    unique: str = _choice(
        "auto",
        *("auto", "host", "device"),
        help="where a batch's unique ids are made: by the reading threads of the host, or by the step, on one device; "
        "auto: device on a single GPU, else host",
    )
    optimizer: str = _key("", "row optimizer of sparse updates, NAME[:KEY=VALUE ...]; default: optimizer.name")
    columns: tuple[str, ...] = _key(
        (), "row optimizers by table column: COLUMN=NAME[:KEY=VALUE ...], also lr= and max_norm="
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    name: str = _choice(
        "adam", "adam", "adamw", "adagrad", "sgd", "rmsprop", "adabelief", "nadam", help="optax optimizer"
    )
    lr: float = _key(1e-3, "learning rate", above=0)
    l2_embedding: float = _key(0.0, "L2 on table rows: adds l2 x weight to the gradient", min=0)
    l2_network: float = _key(0.0, "L2 on network weights; never on biases or BatchNorm", min=0)
    clip_norm: float = _key(0.0, "largest global gradient norm; 0: no clipping", min=0)
    schedule: str = _choice("constant", "constant", "cosine", "linear", "exponential", help="learning-rate schedule")
    warmup_steps: int = _key(0, "steps of linear warm-up from 0", min=0)
    decay_steps: int = _key(0, "steps after warm-up over which cosine/linear decay, or per exponential decay", min=0)
    decay_rate: float = _key(
        0.0, "final share of lr (cosine, linear), or factor per decay_steps (exponential)", min=0, max=1
    )
    b1: float | None = _key(None, "first-moment decay (adam, adamw, adabelief, nadam)")
    b2: float | None = _key(None, "second-moment decay (adam, adamw, adabelief, nadam, rmsprop)")
    eps: float | None = _key(None, "term added to the denominator (all but sgd)")
    momentum: float | None = _key(None, "momentum (sgd, rmsprop)")
    weight_decay: float | None = _key(None, "decoupled weight decay (adamw); not on biases or BatchNorm")
    initial_accumulator: float | None = _key(None, "first value of the squared-gradient sum (adagrad)")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    loss: str = _choice("bce", "bce", "mse", help="bce: clicks, labels 0 or 1; mse: ratings")
    batch_size: int = _key(2048, "samples a step over all devices and hosts", min=1)
    epochs: int = _key(10, "passes over the training split", min=1)
    steps: int = _key(0, "stop after this many steps; 0: as epochs say", min=0)
    seed: int = _key(0, "draws weights, order of batches and dropout", min=0)
    eval_steps: int = _key(0, "evaluate every N steps; 0: at the end of every epoch", min=0)
    eval_batch_size: int = _key(8192, "samples an evaluation step", min=1)
    bf16: bool = _key(False, "multiply matrices of the network in bfloat16, adding up in float32")
    no_eval: bool = _key(False, "no evaluation until the end of training")
    monitor: str = _choice(
        "auto",
        *("auto", "auc", "logloss", "auc-logloss", "ne", "pr_auc", *GROUP_METRICS, "rmse"),
        help="what the best checkpoint is best at (valid split); auto: auc for bce, rmse for mse; ndcg, recall, hr: at "
        "the first of top_k",
    )
    top_k: tuple[int, ...] = _key((10,), "K of ndcg@K, recall@K and hr@K, of data with groups; empty: none", min=1)
    min_delta: float = _key(1e-6, "smallest change of the monitor that counts as better", min=0)
    patience: int = _key(0, "stop after this many evaluations without improvement; 0: never", min=0)
    plateau_factor: float = _key(
        1.0, "multiply lr by this after an evaluation without improvement; 1: never", above=0, max=1
    )
    min_epochs: int = _key(0, "no early stop or learning-rate drop before this many epochs", min=0)
    init_from: str = _key(
        "", "RUN[,RUN2]: runs whose rows, by raw value, columns and layers, by name, are the first values"
    )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How and where a run runs; none of it changes what is computed, so all of it may differ on resume."""

    output_dir: str = _key("", "directory of the run; default runs/<data>_<model>")
    devices: int = _key(0, "devices per process; 0: all there are", min=0)
    hosts: int = _key(0, "processes that train together; 0: as the launcher says, or one", min=0)
    host: int = _key(-1, "the number of this one, from 0; -1: as the launcher says", min=-1)
    coordinator: str = _key("", "ADDRESS:PORT of host 0; default: as the launcher says")
    heartbeat_s: int = _key(60, "seconds after which a host that is not heard of ends all others", min=5)
    stall_s: float = _key(900.0, "seconds in which something must be finished, or the process ends; 0: any time", min=0)
    platform: str = _choice("auto", "auto", "cpu", "gpu", help="which devices to run on")
    resume: str = _choice("auto", "auto", "never", "must", help="auto: go on from the last checkpoint if there is one")
    save_steps: int = _key(0, "save a checkpoint every N steps; 0: at the end of every epoch", min=0)
    save_minutes: float = _key(0.0, "also save when so many minutes have passed since the last; 0: never", min=0)
    keep_checkpoint_max: int = _key(2, "checkpoints kept besides the best", min=1)
    log_steps: int = _key(100, "write a metrics line every N steps", min=1)
    timeline: str = _key("", "FROM:TO, profile these steps into the run's directory")
    tensorboard: bool = _key(True, "write TensorBoard events, where tensorboardX is installed")
    quiet: bool = _key(False, "no progress, neither bars nor lines, and no summary at the end")
    report: bool = _key(True, "write report.html at the end, where the packages of dist_fm[report] are installed")


@dataclasses.dataclass(frozen=True)
class FlagValue:
    """A value as the command line gave it: text still to be read as the key's type."""

    flag: str
    text: str

    def parse(self, kind: Any) -> Any:
        """The text as ``kind``; tuples are comma-separated. Raises ``UserError`` naming the flag."""
        return _parse(self.text, kind, f"--{self.flag}")


@dataclasses.dataclass(frozen=True)
class Config:
    model_name: str
    model: ModelConfig
    data: DataConfig = DataConfig()
    tables: TablesConfig = TablesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dicts; ``model.name`` is the model's name; keys that are unset (None) are left out."""
        sections = {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}
        sections["model"] = {"name": self.model_name, **sections["model"]}
        return {s: {k: v for k, v in keys.items() if v is not None} for s, keys in sections.items()}

    def to_toml(self) -> str:
        lines = []
        for section, keys in self.to_dict().items():
            lines += [f"[{section}]", *(f"{key} = {_toml_value(value)}" for key, value in keys.items()), ""]
        return "\n".join(lines)


SECTIONS = ("data", "model", "tables", "optimizer", "train", "run")
SECTION_TYPES = {f.name: f.type for f in dataclasses.fields(Config) if f.name in SECTIONS}


def build_config(sections: Mapping[str, Mapping[str, Any]], where: str) -> Config:
    """A checked ``Config`` from nested values, each plain or a ``FlagValue``; ``where`` names their file in errors."""
    for section, values in sections.items():
        if section not in SECTIONS:
            raise UserError(f"{where}: unknown section [{section}]; {nearest(section, SECTIONS)}")
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: {section} must be a section, [{section}]")
    model = dict(sections.get("model", {}))
    name = model.pop("name", None)
    if isinstance(name, FlagValue):
        name = name.text
    if name is None:
        raise UserError("no model was given: --model=NAME, or name = ... under [model] in the configuration file")
    try:
        model_class = get_model(str(name))
    except ValueError as error:
        raise UserError(str(error)) from error
    built = {"model": build_section("model", model_class.Config, model, where)}
    for section, section_type in SECTION_TYPES.items():
        if section != "model":
            built[section] = build_section(section, section_type, sections.get(section, {}), where)
    return _resolve(Config(model_name=ALIASES.get(str(name), str(name)), **built))


def _resolve(config: Config) -> Config:
    """Settles what depends on other keys, so that a stored configuration says what was done."""
    train = config.train
    if train.monitor == "auto":
        train = dataclasses.replace(train, monitor="auc" if train.loss == "bce" else "rmse")
    if (train.monitor == "rmse") != (train.loss == "mse"):
        raise UserError(
            f"train.monitor={train.monitor} cannot be computed with loss {train.loss}; allowed: "
            + ("rmse" if train.loss == "mse" else ", ".join(("auc, logloss, auc-logloss, ne, pr_auc", *GROUP_METRICS)))
        )
    if train.monitor in TOP_K_METRICS and not train.top_k:
        raise UserError(f"train.monitor={train.monitor} needs a K: train.top_k is empty; give one, as in 10")
    if config.data.negative_rate < 1 and train.loss != "bce":
        raise UserError(
            f"data.negative_rate={config.data.negative_rate:g} keeps a share of the rows of label 0, which needs "
            f"--loss=bce, not {train.loss}"
        )
    return dataclasses.replace(config, train=train)


def build_section(section: str, section_type: Any, values: Mapping[str, Any], where: str) -> Any:
    """A checked dataclass of ``section_type`` from its ``values``, each plain or a ``FlagValue``."""
    known = {field.name: field for field in dataclasses.fields(section_type)}
    kinds = key_types(section_type)
    built = {}
    for key, value in values.items():
        at = f"--{value.flag}" if isinstance(value, FlagValue) else f"{where}: {section}.{key}"
        if key not in known:
            model = section_type.__name__.removesuffix("Config")
            owner = f"model {model}" if section == "model" else f"section [{section}]"
            raise UserError(f"{at}: {owner} has no key {key!r}; {nearest(key, known)}")
        parsed = value.parse(kinds[key]) if isinstance(value, FlagValue) else _coerce(value, kinds[key], at)
        built[key] = _check(parsed, known[key].metadata, at)
    try:
        return section_type(**built)
    except ValueError as error:
        raise UserError(f"{where}: [{section}]: {error}") from error


def key_types(section_type: Any) -> dict[str, Any]:
    """Field types by key, with ``X | None`` read as X."""
    hints = typing.get_type_hints(section_type)
    names = [field.name for field in dataclasses.fields(section_type)]
    return {name: _strip_optional(hints[name]) for name in names}


def _strip_optional(kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        return next(option for option in kind.__args__ if option is not type(None))
    return kind


def _parse(text: str, kind: Any, at: str) -> Any:
    """A flag's text as ``kind``; tuples are comma-separated."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        parts = [part for part in text.strip("()[] ").split(",") if part.strip()]
        return tuple(_parse(part.strip(), inner, at) for part in parts)
    if kind is bool:
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise UserError(f"{at}={text}: must be true or false")
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(f"{at}={text}: must be {TYPE_WORDS.get(kind, kind)}") from error


def _coerce(value: Any, kind: Any, at: str) -> Any:
    """A TOML value as ``kind``; only whole numbers where a real is wanted, and lists for tuples, are converted."""
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        inner = typing.get_args(kind)[0]
        return tuple(_coerce(part, inner, at) for part in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{at} = {value!r}: must be {TYPE_WORDS.get(kind, kind)}")
    return value


TYPE_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _check(value: Any, metadata: Mapping[str, Any], at: str) -> Any:
    if "choices" in metadata and value not in metadata["choices"]:
        allowed = metadata["choices"]
        raise UserError(f"{at}={value}: must be one of {', '.join(allowed)}; {nearest(value, allowed)}")
    parts = value if isinstance(value, tuple) else (value,)
    if "min" in metadata and not all(part >= metadata["min"] for part in parts):
        raise UserError(f"{at}={value}: must be at least {metadata['min']}")
    if "above" in metadata and not value > metadata["above"]:
        raise UserError(f"{at}={value}: must be above {metadata['above']}")
    if "max" in metadata and not value <= metadata["max"]:
        raise UserError(f"{at}={value}: must be at most {metadata['max']}")
    return value


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml_value(part) for part in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
