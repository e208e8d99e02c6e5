"""The notebooks run from top to bottom, offline, and are stored without outputs."""

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import jaxperturb as jp

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed (pip install -e '.[test]')")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (pip install -e '.[test]')")

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
TAGS = {"internet", "cifar10"}


def read(name: str):
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def code(name: str) -> list:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def run(name: str, cells: Sequence, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Executes cells of a notebook in a folder; the file stays as it is."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = nbformat.v4.new_notebook(cells=list(cells), metadata=read(name).metadata)
    return nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()


def pictures(notebook) -> list[str]:
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    return [out.data["image/png"] for out in outputs if "image/png" in out.get("data", {})]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_without_outputs(name: str):
    for cell in read(name).cells:
        assert tags(cell) <= TAGS
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_needs_the_internet_is_tagged(name: str):
    for cell in code(name):
        if re.search(r"pip install|google\.colab|convert alexnet|--prepare", cell.source):
            assert "internet" in tags(cell)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_uses_public_names_alone(name: str):
    for cell in code(name):
        tree = ast.parse(re.sub(r"^(\s*)[!%].*", r"\1pass", cell.source, flags=re.MULTILINE))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("jaxperturb")
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("jaxperturb.") for alias in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jp":
                assert node.attr in jp.__all__


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cells = [cell for cell in read(name).cells if not tags(cell)]
    done = run(name, cells, tmp_path, monkeypatch)
    figures = [cell for cell in done.cells if re.search(r"\bplt\.subplots\(|\.plot\(", cell.source)]
    assert len(pictures(done)) == len(figures) > 4
    assert all(len(picture) > 5000 for picture in pictures(done))


@pytest.mark.once
def test_the_method_runs_on_photographs(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CIFAR10_DIR", str(photographs / "tfds"))
    imports, *others = code("method")
    own = [cell for cell in others if "cifar10" in tags(cell)]
    assert len(pictures(run("method", [imports, *own], tmp_path, monkeypatch))) == len(own) == 1
