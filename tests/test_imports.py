"""Who imports whom: the layers of the design, without cycles; data_tools works where JAX is not installed."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MAY_IMPORT = {  # package: what of ours it may import besides itself
    "dist_fm.data": set(),
    "data_tools": {"dist_fm.data"},
    "dist_fm.hashing": set(),
    "dist_fm.apart": set(),
    "dist_fm.layers": {"dist_fm.errors", "dist_fm.hashing", "dist_fm.apart", "dist_fm.tables.spec"},
    "dist_fm.errors": set(),
    "dist_fm.tables": {"dist_fm.errors", "dist_fm.hashing", "dist_fm.apart"},
    "dist_fm.metrics": set(),
    "dist_fm.parallel": {"dist_fm.errors"},
    "dist_fm.models": {"dist_fm.data", "dist_fm.layers", "dist_fm.tables.spec", "dist_fm.errors"},
    "dist_fm.config": {"dist_fm.models", "dist_fm.errors"},
    "dist_fm.flags": {"dist_fm.models", "dist_fm.errors", "dist_fm.config"},
}
COMMANDS = {
    *("train", "evaluate", "predict", "explain", "report", "export", "summary"),
    *("import_torchfm", "demo", "__main__"),
}


def modules():
    for folder in ("dist_fm", "data_tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # `from package import module` imports the module
                name = f"{node.module}.{alias.name}"
                yield name if is_module(name) else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def is_module(name):
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def ours(path):
    return {name for name in imports(path) if name.split(".")[0] in ("dist_fm", "data_tools")}


def is_in(name, package):
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_layers_import_only_what_lies_below(package):
    checked = 0
    for name, path in modules():
        if is_in(name, package):
            checked += 1
            allowed = MAY_IMPORT[package] | {package}
            wrong = {used for used in ours(path) if not any(is_in(used, one) for one in allowed)}
            assert not wrong, f"{name} imports {sorted(wrong)}"
    assert checked


def test_nothing_below_imports_a_command():
    commands = {f"dist_fm.{name}" for name in COMMANDS}
    for name, path in modules():
        if name not in commands:
            assert not ours(path) & commands, name


def test_nothing_but_its_own_imports_the_estimators():
    for name, path in modules():
        if not is_in(name, "dist_fm.estimator"):
            assert not any(is_in(used, "dist_fm.estimator") for used in ours(path)), name


def test_no_cycles():
    known = dict(modules())
    graph = {name: {used for used in ours(path) if used in known} for name, path in known.items()}
    done, on_path = set(), []

    def visit(name):
        assert name not in on_path, f"cycle: {' -> '.join([*on_path, name])}"
        if name in done:
            return
        on_path.append(name)
        for used in graph[name]:
            visit(used)
        done.add(on_path.pop())

    for name in graph:
        visit(name)


def test_data_imports_jax_in_the_pipeline_only():
    for name, path in modules():
        if is_in(name, "dist_fm.data") or is_in(name, "data_tools"):
            roots = {used.split(".")[0] for used in imports(path)}
            assert name == "dist_fm.data.pipeline" or not roots & {"jax", "flax", "optax", "orbax", "grain"}, name


def test_data_tools_runs_where_jax_is_not_installed(tmp_path):
    raw = tmp_path / "u.data"
    raw.write_text("".join(f"{i % 7}\t{i % 5}\t{1 + i % 5}\t{i}\n" for i in range(100)))
    blocked = (
        "import sys\n"
        "for name in ('jax', 'flax', 'optax', 'orbax', 'grain', 'pyarrow'): sys.modules[name] = None\n"
        "from data_tools.cli import main\n"
        f"sys.exit(main(['build-lmdb', '--format=movielens-100k', '--input={raw}', '--output={tmp_path}/d']))\n"
    )
    done = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d" / "manifest.json").is_file()
