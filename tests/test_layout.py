"""The laws of the code base: which module may import which, and what is public."""

import ast
import importlib
import itertools
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import jaxperturb

PACKAGE = Path(jaxperturb.__file__).parent
# A module may import only from those before it, and from its own folder.
ORDER = (
    *("errors", "types", "levels", "random", "trees", "perturb", "networks", "checkpoints"),
    *("data", "engine", "stats", "study", "recovery", "show", "api", "cli"),
)
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Returns the full names of all that these nodes import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports_anywhere(path: Path) -> set[str]:
    return imports(ast.walk(parse(path)))


def imports_at_once(path: Path) -> set[str]:
    """Returns what is imported when the module is, so neither inside functions nor for type checkers."""
    return imports(parse(path).body)


def group(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else None


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def ids(path: Path) -> str:
    return dotted(path)


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_imports_only_from_modules_above(path: Path):
    own = group(dotted(path))
    if own is None or own == "__main__":
        return  # the package itself shows what is below it
    assert own in ORDER, f"{own} has no place in the order"
    allowed = set(ORDER[: ORDER.index(own) + 1])
    used = {group(name) for name in imports_anywhere(path) if name.startswith("jaxperturb.")}
    assert used <= allowed | {"__version__"}


def test_no_two_modules_import_each_other():
    names = {dotted(path) for path in MODULES}
    graph = {
        dotted(path): {
            known for name in imports_at_once(path) for known in (name, name.rpartition(".")[0]) if known in names
        }
        for path in MODULES
    }
    # An __init__ that shows names of its own folder, and the package itself, are no cycles of meaning.
    packages = {dotted(path) for path in MODULES if path.name == "__init__.py"}
    pairs = itertools.combinations(sorted(names - packages), 2)
    assert [(a, b) for a, b in pairs if b in graph[a] and a in graph[b]] == []


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_each_module_says_what_it_is(path: Path):
    assert ast.get_docstring(parse(path))


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_never_imports_what_it_must_not(path: Path):
    used = {name.split(".")[0] for name in imports_anywhere(path)}
    assert not used & {"torch", "tensorflow", "pickle", "__future__"}
    assert path.stem not in {"utils", "helpers", "misc", "common"}


def test_statistics_know_no_jax():
    for path in (PACKAGE / "stats").glob("*.py"):
        assert not {name.split(".")[0] for name in imports_anywhere(path)} & {"jax", "flax", "optax"}, path.name


def imported_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_starts_nothing():
    assert not imported_after("import jaxperturb") & {"jax", "flax", "numpy", "pandas", "matplotlib", "absl"}


def test_the_command_line_imports_absl_only():
    modules = imported_after("from jaxperturb.cli import main; assert main.run(['sweep', '--help']) == 0")
    assert "absl" in modules
    assert not modules & {"jax", "flax", "numpy", "pandas", "matplotlib", "tqdm", "sklearn", "scipy"}


def test_the_library_imports_what_is_heavy_where_it_is_used():
    modules = imported_after("import jaxperturb.api")
    assert "jax" in modules
    assert not modules & {"matplotlib", "sklearn", "orbax", "tensorflow_datasets", "tensorflow", "torch", "optax"}


@pytest.mark.parametrize("name", jaxperturb.__all__)
def test_each_public_name_is_there(name: str):
    assert getattr(jaxperturb, name) is not None
    assert name in dir(jaxperturb)


def test_public_names_are_the_same_for_people_and_type_checkers():
    tree = parse(PACKAGE / "__init__.py")
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    seen |= {node.target.id for node in block.body if isinstance(node, ast.AnnAssign)} | {"JaxPerturbError"}
    assert sorted(seen) == sorted(jaxperturb.__all__) == jaxperturb.__all__


def test_unknown_names_are_refused_as_usual():
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        jaxperturb.swep  # noqa: B018


def test_version_is_that_of_the_installed_package():
    assert jaxperturb.__version__ == importlib.import_module("importlib.metadata").version("jaxperturb")


def test_every_error_is_a_jaxperturb_error():
    errors = importlib.import_module("jaxperturb.errors")
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(kinds) > 5
    assert all(issubclass(kind, jaxperturb.JaxPerturbError) for kind in kinds)
