"""Label rules: how a raw cell becomes the number a model is trained on."""

from data_tools.errors import DataError, unknown
from data_tools.numeric import parse_number
from dist_fm.data.schema import Label


def parse_rule(text: str, column: str) -> Label:
    """The label of ``--label=above:3``, ``binary``, ``signed``, ``value`` or ``implicit``, read from ``column``."""
    name, colon, argument = text.partition(":")
    if name not in ("above", "binary", "signed", "value", "implicit"):
        raise unknown("label rule", name, ("above:NUMBER", "binary", "signed", "value", "implicit"))
    threshold = parse_number(argument)
    if name == "above" and threshold is None:
        raise DataError(f"--label={text}: `above` needs a number, as in --label=above:3")
    if name != "above" and colon:
        raise DataError(f"--label={text}: `{name}` takes no number")
    return Label(column, name, threshold if name == "above" else None)


def format_rule(label: Label) -> str:
    """What ``parse_rule`` reads."""
    return f"above:{label.threshold:g}" if label.rule == "above" else label.rule


def label_value(label: Label, token: str) -> float | str:
    """The label that ``token`` gives, or, as a string, why it gives none."""
    if not token:
        return f"{label.column} is empty"
    number = parse_number(token)
    if number is None:
        return f"{label.column} {token!r} is not a number"
    if label.rule == "above":
        return float(number > (label.threshold or 0.0))
    if label.rule == "binary" and number not in (0, 1):
        return f"{label.column} {token!r} is neither 0 nor 1"
    if label.rule == "signed":
        return max(number, 0.0) if number in (-1, 0, 1) else f"{label.column} {token!r} is neither -1, 0 nor 1"
    return number
