"""The data_tools command line: flags, errors with the nearest name, exit codes, and life without JAX."""

import subprocess
import sys

import pytest

from data_tools.cli import main
from data_tools.verify import verify


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "raw.dat"
    path.write_text("".join(f"{n % 7}::{n % 11}::{n % 5 + 1}::{n}\n" for n in range(300)))
    return path


def test_dashes_and_underscores_are_equal(tmp_path, raw, capsys):
    for number, (command, flag) in enumerate([("build-lmdb", "--min-count"), ("build_lmdb", "--min_count")]):
        arguments = ["--format=movielens-1m", "--input", str(raw), "--output", str(tmp_path / str(number))]
        assert main([command, *arguments, flag, "2", "--split=user"]) == 0
        assert "0 of 300 rows quarantined" in capsys.readouterr().out
    assert verify(tmp_path / "0") == verify(tmp_path / "1") == []
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in "01"]
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["bild-lmdb"], "unknown command 'bild-lmdb'; did you mean 'build-lmdb'"),
        (["verify", "x", "--row=1"], "unknown argument '--row=1'"),
        (["inspect", "x", "--row=1"], "unknown argument '--row=1'; did you mean --rows?"),
        (["build-lmdb", "--format=criteo", "--output=x", "--input=y", "--min-cuont=3"], "did you mean --min_count?"),
        (["build-lmdb", "--output=x", "--input=y"], "the following arguments are required: --format"),
        (["build-lmdb", "--format=criteo", "--output=x", "--input=y", "--seed=x"], "invalid int value: 'x'"),
        (["synth", "--kind=criteo", "--output=x"], "required: --rows"),
    ],
)
def test_command_lines_that_cannot_be_understood(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["build-lmdb", "--format=criteoo", "--output={}/o", "--input=y"],
            "unknown format 'criteoo'; did you mean 'criteo'",
        ),
        (["build-lmdb", "--format=criteo", "--output={}/o", "--input=nothing"], "nothing: cannot be read"),
        (["build-lmdb", "--format=criteo", "--output={}/o", "--input={}"], "cannot be read: Is a directory"),
        (["build-lmdb", "--format=criteo", "--output={}/o", "--input=y", "--fractions=1"], "needs three numbers"),
        (["inspect", "{}/o"], "no such directory"),
        (["inspect", "{}"], "has no manifest.json"),
        (["verify", "{}"], "has no manifest.json"),
        (["synth", "--kind=move", "--rows=1000", "--output={}/o"], "unknown kind 'move'; did you mean 'movielens'"),
        (["synth", "--kind=criteo", "--rows=10", "--output={}/o"], "--rows=10"),
        (["synth", "--kind=criteo", "--rows=1000", "--output={}/o/p"], "No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(tmp_path, arguments, message, capsys):
    assert main([argument.format(tmp_path) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_commands_formats_and_defaults(capsys):
    for arguments, words in (
        (["--help"], ["build-lmdb", "inspect", "verify", "synth"]),
        ([], ["build-lmdb"]),
        (["build-lmdb", "--help"], ["movielens-1m", "leave_one_out", "--min_count", "default: 8192"]),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert all(word in text for word in words)


def test_works_without_jax_and_as_a_module(tmp_path, raw):
    program = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('jax', 'jaxlib', 'flax', 'optax', 'orbax', 'grain', 'torch'):\n"
        "            raise ImportError(f'{name} is not there')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from data_tools.cli import main\n"
        "import data_tools.encode\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    output = tmp_path / "set"
    build = ["build-lmdb", "--format=movielens-1m", f"--input={raw}", f"--output={output}"]
    for start, arguments in (
        (["-c", program], build),
        (["-m", "data_tools"], ["verify", str(output)]),
        (["-c", program], ["inspect", str(output)]),
    ):
        ended = subprocess.run([sys.executable, *start, *arguments], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")
    assert verify(output) == []
