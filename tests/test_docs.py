"""What README and docs tell a reader to do: flags that exist, links that lead somewhere, commands that work."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from data_tools.cli import parse_arguments
from dist_fm.__main__ import COMMANDS
from dist_fm.flags import load_config, parse_flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch" / "README.md", *ROOT.glob("docs/*.md")])
RUNNABLE = [page for page in PAGES if "```bash\n" in page.read_text(encoding="utf-8")]


def blocks(page, languages):
    """The code blocks of ``page`` in one of ``languages``, each with its continued lines joined."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text.replace("\\\n", " ") for language, text in found if language in languages]


def commands():
    """Every shell line of every page that runs a command of ours: (page's name, its words from the command on)."""
    for page in PAGES:
        for line in "\n".join(blocks(page, ("", "bash", "console", "sh"))).splitlines():
            words = shlex.split(line, comments=True)
            for at, word in enumerate(words):
                if word == "data_tools" or word.startswith("dist_fm.") and words[at - 1] == "-m":
                    yield page.name, words[at:]


@pytest.mark.parametrize("page, words", [pytest.param(*found, id=" ".join(found[1])[:60]) for found in commands()])
def test_commands_and_their_flags_exist(page, words):
    words = [word for word in words if word not in ("||", "true", "&")]
    if words[0] == "data_tools":
        if len(words) > 2 and words[1] != "...":
            parse_arguments(words[1:])
        return
    name = words[0].removeprefix("dist_fm.")
    assert name in COMMANDS, f"{page} names dist_fm.{name}"
    if name == "train":
        flags, own = parse_flags(words[1:], own=("config", "hook"))
        load_config(str(ROOT / own["config"]) if "config" in own else None, flags)


def test_the_readme_begins_with_the_quickstart():
    page = ROOT / "docs" / "quickstart.md"
    assert "".join(blocks(page, ("", "bash"))) == blocks(ROOT / "README.md", ("",))[0]


def test_links_lead_somewhere():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            path, _, heading = target.partition("#")
            linked = page if not path else (page.parent / path).resolve()
            assert linked.exists(), f"{page.name} links to {target}"
            assert not heading or heading in anchors(linked), f"{page.name} links to {target}"


def anchors(page):
    """The headings of ``page`` as GitHub names them in addresses."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_a_page_works_from_top_to_bottom(page, request, tmp_path):
    """All ``bash`` blocks of a page, in order, in a directory with nothing but the ratings that it may begin with."""
    if "ratings.csv" in page.read_text(encoding="utf-8"):
        shutil.copy(request.getfixturevalue("shared") / "data" / "ml-latest-small" / "ratings.csv", tmp_path)
    bin_directory = pathlib.Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}", "DIST_FM": str(ROOT)}
    script = "set -e -o pipefail\n" + "\n".join(blocks(page, ("bash",)))
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
