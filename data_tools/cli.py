"""The command line: ``data_tools build-lmdb | inspect | verify | synth``. Dashes and underscores are equal."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from data_tools.build import build
from data_tools.errors import DataError, unknown
from data_tools.formats import FORMATS
from data_tools.inspect import inspect
from data_tools.plan import ENGINES, BuildOptions
from data_tools.progress import quietly
from data_tools.split import KINDS, parse_fractions
from data_tools.synth import KINDS as SYNTH_KINDS
from data_tools.synth import synth
from data_tools.verify import verify
from data_tools.workers import cores
from dist_fm.data.records import RecordError
from dist_fm.data.schema import SchemaError
from dist_fm.data.store import StoreError
from dist_fm.data.store_writer import DEFAULT_BLOCK_ROWS, DEFAULT_MAP_SIZE


class UsageError(Exception):
    """A command line that cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 the data or the disk is at fault, 2 the command line is."""
    try:
        options = parse_arguments(list(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with quietly(options.quiet):
            return options.run(options)
    except (DataError, SchemaError, StoreError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted; nothing was left half-made", file=sys.stderr)
    return 1


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line ``argv``, parsed; raises ``UsageError``."""
    parser, commands = _parser()
    name = argv[0] if argv else "--help"
    if not name.startswith("-"):
        name = name.replace("_", "-")
        if name not in commands:
            raise UsageError(str(unknown("command", argv[0], commands)))
    arguments = [name] + [_with_underscores(argument) for argument in argv[1:]]
    options, rest = parser.parse_known_args(arguments)
    if rest:
        flags = [flag for action in commands[name]._actions for flag in action.option_strings if flag[:2] == "--"]
        near = difflib.get_close_matches(rest[0].partition("=")[0], flags, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"data_tools {name}: unknown argument {rest[0]!r}{hint} (there are: {', '.join(flags)})")
    return options


def _with_underscores(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value if flag.startswith("--") else argument


def _parser() -> tuple[_Parser, dict[str, argparse.ArgumentParser]]:
    parser = _Parser(prog="data_tools", description="Raw click logs and ratings into data sets for dist_fm.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    adders = {"build-lmdb": _add_build, "inspect": _add_inspect, "verify": _add_verify, "synth": _add_synth}
    parser.set_defaults(quiet=False)
    return parser, {name: add(commands, name) for name, add in adders.items()}


def _add_build(commands, name: str) -> argparse.ArgumentParser:
    formats = "\n".join(f"  {found.name:<16} {found.about}" for found in FORMATS.values())
    parser = commands.add_parser(
        name,
        help="convert raw files into a data set",
        description="Converts raw files into a data set: train, valid and test LMDBs, schema, vocabularies, manifest.",
        epilog=f"formats:\n{formats}",
    )
    parser.add_argument("--format", required=True, help="the raw format, see below")
    about = "raw files in this order, or globs: text, plain, .gz or .zst, or parquet"
    parser.add_argument("--input", nargs="+", default=[], metavar="FILE", help=about)
    parser.add_argument("--output", required=True, metavar="DIR", help="the data set to make")
    parser.add_argument(
        "--schema", metavar="FILE", help="TOML file that describes csv, tsv or parquet files (see docs/data.md)"
    )
    parser.add_argument("--vocab_from", metavar="DIR", help="encode with the vocabularies of this data set or run")
    parser.add_argument("--grow", action="store_true", help="and add the new values that pass --min_count to them")
    parser.add_argument("--max_entries", type=int, help="libsvm, libffm: entries of a field a row may have")
    parser.add_argument("--pool", help="libsvm, libffm: what becomes of a field's entries, sum or none")
    about = "attributes from side tables, as users=FILE items=FILE (movielens, kmrd)"
    parser.add_argument("--table", nargs="+", default=[], metavar="NAME=FILE", help=about)
    about = "above:NUMBER, binary, signed, value or implicit (default: the format's)"
    parser.add_argument("--label", metavar="RULE", help=about)
    about = "with --label=implicit: so many rows with items that the user has no row of, for each row (default: 0)"
    parser.add_argument("--negatives", type=int, default=0, metavar="N", help=about)
    parser.add_argument("--rows", type=int, metavar="N", help="read only the first N rows (of each file of a split)")
    parser.add_argument("--min_count", type=int, help="training rows a value needs for an id (default: the format's)")
    parser.add_argument("--split", default="random", help=f"{', '.join(KINDS)} (default: random)")
    parser.add_argument("--fractions", default="0.8,0.1,0.1", help="train, valid, test (default: 0.8,0.1,0.1)")
    parser.add_argument("--seed", type=int, default=0, help="of random and user splits, and of negatives (default: 0)")
    for part in ("train", "valid", "test"):
        more = "; or leave_one_out[:N], an item of each user out of train, with N (99) negatives"
        about = f"the {part} file, with --split=files{more if part == 'valid' else ''}"
        parser.add_argument(f"--{part}", metavar="FILE", help=about)
    parser.add_argument("--name", help="the data set's name (default: the format's)")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad row instead of setting it aside")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    parser.add_argument(
        "--block_rows", type=int, default=DEFAULT_BLOCK_ROWS, help="rows a block (default: %(default)s)"
    )
    parser.add_argument("--shards", type=int, default=1, help="LMDBs that each split is cut into (default: 1)")
    parser.add_argument(
        "--map_size", type=int, default=DEFAULT_MAP_SIZE, help="bytes of address space an LMDB may use (default: 1 TiB)"
    )
    parser.add_argument(
        "--workers", type=int, default=cores(), help="processes at work (default: the cores, %(default)s)"
    )
    about = f"{' or '.join(ENGINES)}; ray: a running cluster with a shared file system (default: local)"
    parser.add_argument("--engine", default="local", help=about)
    about = "what the counts of distinct values may take before they go to disk, as 500MB or 2GB (default: 1GB)"
    parser.add_argument("--memory", default="1GB", metavar="SIZE", help=about)
    _add_quiet(parser)
    parser.set_defaults(run=_build)
    return parser


def _add_inspect(commands, name: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help="describe a data set", description="Describes a data set.")
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--rows", type=int, default=3, help="training rows to show (default: 3)")
    parser.set_defaults(run=_inspect)
    return parser


def _add_verify(commands, name: str) -> argparse.ArgumentParser:
    about = "Checks every block, count, id, vocabulary and fingerprint of a data set."
    parser = commands.add_parser(name, help="check that a data set is undamaged", description=about)
    parser.add_argument("directory", metavar="DIR")
    _add_quiet(parser)
    parser.set_defaults(run=_verify)
    return parser


def _add_synth(commands, name: str) -> argparse.ArgumentParser:
    about = (
        "Writes raw rows drawn from a known FM model, and FILE.planted.json with the best metrics any model can reach."
    )
    parser = commands.add_parser(name, help="write a raw file from a known model", description=about)
    parser.add_argument("--kind", required=True, help=f"{', '.join(SYNTH_KINDS)}")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--output", required=True, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    _add_quiet(parser)
    parser.set_defaults(run=_synth)
    return parser


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _build(options: argparse.Namespace) -> int:
    manifest = build(
        BuildOptions(
            format=options.format,
            output=options.output,
            schema=options.schema,
            vocab_from=options.vocab_from,
            grow=options.grow,
            max_entries=options.max_entries,
            pool=options.pool,
            tables=tuple(_name_and_file(text) for text in options.table),
            inputs=tuple(options.input),
            split_files=(options.train, options.valid, options.test),
            label=options.label,
            min_count=options.min_count,
            negatives=options.negatives,
            rows=options.rows,
            split=options.split,
            fractions=parse_fractions(options.fractions),
            seed=options.seed,
            strict=options.strict,
            overwrite=options.overwrite,
            block_rows=options.block_rows,
            shards=options.shards,
            map_size=options.map_size,
            name=options.name,
            engine=options.engine,
            workers=options.workers,
            memory_bytes=_num_bytes(options.memory),
        )
    )
    counts = ", ".join(f"{split} {about['rows']:,}" for split, about in manifest.splits.items())
    print(f"{options.output}: {counts} rows; {manifest.rows_quarantined:,} of {manifest.rows_in:,} rows quarantined")
    return 0


def _num_bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)i?B?", text, re.IGNORECASE)
    if not found:
        raise DataError(f"--memory={text}: needs a number of bytes, as 500MB or 2GB")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def _name_and_file(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals:
        raise DataError(f"--table={text}: needs a name and a file, as in --table users=users.dat")
    return name, path


def _inspect(options: argparse.Namespace) -> int:
    for line in inspect(options.directory, options.rows):
        print(line)
    return 0


def _verify(options: argparse.Namespace) -> int:
    problems = verify(options.directory)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        print(f"{options.directory}: every block, count, id and vocabulary is as it was built")
    return 1 if problems else 0


def _synth(options: argparse.Namespace) -> int:
    planted = synth(options.kind, options.rows, options.output, options.seed)
    print(
        f"{options.output}: {planted['rows']:,} rows, {planted['positive_rate']:.3f} positive; the best any model can "
        f"reach: AUC {planted['auc']:.4f}, log loss {planted['logloss']:.4f}"
    )
    return 0
