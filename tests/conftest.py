"""What every test shares: no display, no sound, nobody's own dreams, one thread, no deadlines, and a checkpoint."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# Before any test module imports pygame or matplotlib: neither may look for a screen or a sound card.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
# Before torch is imported: the test workers share the cores among themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow machine is not a failure, and the same commit always runs the same examples.
settings.register_profile("jedi-env", deadline=None, derandomize=True)
settings.load_profile("jedi-env")


@pytest.fixture(autouse=True)
def _nobodys_dreams(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the checkpoints that whoever runs the tests may have trained."""
    monkeypatch.delenv("JEDI_ENV_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache", numbered=True)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def tracked() -> list[str]:
    """The files of the repository, relative to its root: those that git tracks, or would if they were added."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with everything in it, which no test changes."""
    from tests.tiny_dream import tiny_checkpoint

    path = tmp_path_factory.mktemp("pristine") / "dream"
    tiny_checkpoint(agent=True, decoder=True).save(path)
    return path


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy of it to play with."""
    return Path(shutil.copytree(pristine, tmp_path / "dream"))
