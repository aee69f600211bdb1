"""What may differ between a run and the command that goes on with it."""

import pathlib

from dist_fm.config import Config
from dist_fm.data.schema import Schema
from dist_fm.errors import UserError

# Where and how it runs, and how fast it reads, never changes what is computed.
_FREE_SECTIONS = {"run"}
_FREE_KEYS = {"data.read_threads", "tables.placement", "tables.unique"}


def check_same_run(old: Config, new: Config, old_schema: Schema, new_schema: Schema, where: pathlib.Path) -> None:
    """Raises ``UserError`` listing, key by key, every setting that a resumed run may not change."""
    problems = [] if old_schema.fingerprint == new_schema.fingerprint else [
        f"the data's schema: the run was trained on {old_schema.name!r} with fingerprint "
        f"{old_schema.fingerprint[:12]}, {new.data.path} has {new_schema.fingerprint[:12]}"
    ]  # fmt: skip
    before, after = old.to_dict(), new.to_dict()
    for section in sorted(before | after):
        if section in _FREE_SECTIONS:
            continue
        keys_before, keys_after = before[section], after[section]
        for key in sorted(keys_before | keys_after):
            a, b = keys_before.get(key), keys_after.get(key)
            if a != b and f"{section}.{key}" not in _FREE_KEYS and not _grows(section, key, a, b):
                problems.append(f"{section}.{key}: the run has {a!r}, this command {b!r}")
    if problems:
        raise UserError(
            f"{where} cannot go on with other settings (only run.*, {', '.join(sorted(_FREE_KEYS))} and larger "
            "train.epochs or train.steps may differ):\n  "
            + "\n  ".join(problems)
            + "\ngive the same settings, or another --output_dir"
        )


def _grows(section: str, key: str, before: object, after: object) -> bool:
    """Larger train.epochs or train.steps; 0 steps are unlimited."""
    if section != "train" or key not in ("epochs", "steps"):
        return False
    assert isinstance(before, int) and isinstance(after, int)
    if key == "steps" and 0 in (before, after):
        return after == 0
    return after > before
