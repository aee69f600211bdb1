"""A progress bar over bytes read or rows written, silent when nobody is watching, or asked to be."""

import contextlib
import contextvars
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

_QUIET = contextvars.ContextVar("quiet", default=False)


@contextlib.contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """Within it, if ``quiet``, there are no bars."""
    before = _QUIET.set(quiet or _QUIET.get())
    try:
        yield
    finally:
        _QUIET.reset(before)


def print_line(text: str) -> None:
    """Prints ``text`` at once, above a bar if there is one."""
    with tqdm.external_write_mode():
        print(text, flush=True)


class Progress:
    """Shows ``what``, how far it is of ``total`` units, and rows/s. A context manager."""

    REFRESH_S = 0.1

    def __init__(self, what: str, total: int | None, unit: str):
        self._start_s = time.perf_counter()
        self._rows = 0
        hidden = _QUIET.get() or not sys.stderr.isatty()
        self._bar = tqdm(
            total=total, desc=what, unit=unit, unit_scale=True, leave=False, disable=hidden, mininterval=self.REFRESH_S
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
