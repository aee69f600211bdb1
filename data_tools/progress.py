"""A progress bar over bytes read or rows written, silent when nobody is watching."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Shows ``what``, how far it is of ``total`` units, and rows/s. A context manager."""

    def __init__(self, what: str, total: int | None, unit: str):
        self._start_s = time.perf_counter()
        self._rows = 0
        self._bar = tqdm(
            total=total, desc=what, unit=unit, unit_scale=True, leave=False, disable=not sys.stderr.isatty()
        )

    def advance(self, units: int, rows: int) -> None:
        self._rows += rows
        if not self._bar.disable:
            rows_per_s = self._rows / (time.perf_counter() - self._start_s)
            self._bar.set_postfix_str(f"{rows_per_s:,.0f} rows/s", refresh=False)
            self._bar.update(units)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
