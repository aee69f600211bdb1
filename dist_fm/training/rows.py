"""Which rows are trained on: all of the split, a share of its negatives, or its positives with sampled negatives."""

from dist_fm.config import Config
from dist_fm.data.kept import KeptRows
from dist_fm.data.negatives import NegativesError, WithNegatives
from dist_fm.data.schema import Schema
from dist_fm.data.store import BlockStore
from dist_fm.data.windows import RowStore
from dist_fm.errors import UserError
from dist_fm.parallel.hosts import must_be_alike, say
from dist_fm.parallel.watchdog import alive


def training_rows(config: Config, schema: Schema, store: BlockStore) -> RowStore:
    """The rows to train on, as ``data.negatives`` and ``data.negative_rate`` say; ``store`` is the training split.

    Raises ``UserError`` where they do not go together, or with the data.
    """
    rate, negatives = config.data.negative_rate, config.data.negatives
    if negatives and rate < 1:
        raise UserError(
            f"--data.negatives={negatives} draws the negatives: there are none to keep --data.negative_rate of"
        )
    if negatives:
        try:
            return WithNegatives(store, schema, negatives)
        except NegativesError as error:
            raise UserError(f"--data.negatives={negatives} {error}") from error
    return store if rate == 1 else _kept(store, rate, config.train.seed)


def describe_rows(config: Config, rows: RowStore) -> str:
    """A line on sampled negatives, or nothing."""
    if not isinstance(rows, WithNegatives):
        return ""
    count, fields = config.data.negatives, ", ".join(field.name for field in rows.item_fields)
    return (
        f"negatives: {rows.rows * count // (1 + count):,} of the rows, {count} a positive, drawn anew every epoch "
        f"from {len(rows.items):,} items: {fields}\n"
    )


def _kept(store: BlockStore, rate: float, seed: int) -> KeptRows:
    kept = KeptRows.draw(store, rate, seed, tick=alive)
    must_be_alike({"rows kept of the train split": kept.rows})
    if not kept.rows:
        raise UserError(f"--data.negative_rate={rate:g}: nothing is kept of the training split's {store.rows:,} rows")
    say(f"kept: {kept.rows:,} of {store.rows:,} training rows, all positives and {rate:.3g} of the negatives")
    return kept
