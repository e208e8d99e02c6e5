"""What all tests share: no hidden state between them, and honest reasons for a test that cannot run."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("JAXPERTURB_SHARED", ROOT.parent / "shared"))

# The same examples at each run, however slow the machine: a red test stays red.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# Set before JAX starts: the tests compare with other programs on the CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--heavy", action="store_true", help="run the heavy tests, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the heavy tests out unless they are asked for."""
    if config.getoption("--heavy") or "heavy" in config.getoption("-m"):
        return
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    if heavy:
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in heavy]


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> None:
    """Ctrl-C ends a test, and what it starts, also where the whole run was started in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs() -> Iterator[None]:
    """Thousands of tests compile more programs than one process may hold."""
    yield
    if "jax" in sys.modules:
        from jaxperturb.engine.mappings import make_room

        make_room()


@pytest.fixture
def compilations() -> Callable[[Callable[[], object]], int]:
    """How many programs a call compiles."""
    import jax

    def count(call: Callable[[], object]) -> int:
        found = []
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, *_, **__: found.append(event) if "backend_compile" in event else None
        )
        try:
            call()
        finally:
            jax.monitoring.clear_event_listeners()
        return len(found)

    return count


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs each test in a folder of its own, with a cache and an environment that it may change."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    yield
    if "jax" in __import__("sys").modules:
        _forget_compilation_cache()


def _forget_compilation_cache() -> None:
    """Undoes what a command did to JAX's settings, lest the next test writes into a folder that is gone."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if jax.config.jax_compilation_cache_dir is not None:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


@pytest.fixture
def shared() -> Path:
    """The folder of shared data; skips where it is not."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no shared data in {SHARED} (set JAXPERTURB_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CIFAR-10 (tfds/) and Imagenette (imagenette64/) unpacked; skips where the packs are not."""
    script = SHARED / "data" / "prepare.py"
    if not script.is_file():
        pytest.skip(f"no shared data in {SHARED} (set JAXPERTURB_SHARED)")
    folder = tmp_path_factory.mktemp("photographs")
    done = subprocess.run([sys.executable, str(script), "--out", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def torch():
    """PyTorch; skips where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed (pip install -e '.[torch]', Python 3.11)")
    return importlib.import_module("torch")
