"""What a user gets by installing and importing the package, before any dream begins."""

import ast
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import gymnasium as gym
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import jedi_env
from jedi_env.envs.single import DreamEnv
from jedi_env.envs.vector import DreamVectorEnv

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IDS = {"JEDIDream-v0", "JEDICatch-v0", *(f"JEDIDream-{game}-v0" for game in jedi_env.GAMES)}


def in_a_fresh_interpreter(code: str) -> dict[str, object]:
    """Run ``code``, which prints one JSON object, where nothing has been imported yet."""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert run.stderr == ""
    return json.loads(run.stdout)


def test_importing_registers_the_ids_and_imports_nothing_heavy():
    seen = in_a_fresh_interpreter(
        "import json, sys, gymnasium; before = set(gymnasium.registry); import jedi_env;"
        "print(json.dumps({'ids': sorted(set(gymnasium.registry) - before), 'modules': sorted(sys.modules)}))"
    )
    assert set(seen["ids"]) == IDS
    assert len(IDS) == 28
    roots = {name.split(".")[0] for name in seen["modules"]}
    assert not roots & {"torch", "ale_py", "stable_baselines3", "safetensors", "trainers", "matplotlib", "ray", "tyro"}
    assert {name for name in seen["modules"] if name.split(".")[0] == "jedi_env"} == {
        "jedi_env",
        "jedi_env.errors",
        "jedi_env.games",
    }


@pytest.mark.parametrize("making", ["make(name, checkpoint='/nowhere')", "make_vec(name, checkpoint='/nowhere')"])
def test_an_id_with_its_module_needs_no_import(making):
    seen = in_a_fresh_interpreter(
        "import gymnasium as gym, json; name = 'jedi_env:JEDIDream-Breakout-v0'\n"
        f"try: gym.{making}\n"
        "except Exception as error: print(json.dumps({'module': type(error).__module__, 'text': str(error)}))"
    )
    assert seen["module"] == "jedi_env.errors"  # ours, so the id was found and the environment class was reached
    assert "/nowhere" in seen["text"]


@pytest.mark.parametrize("name", sorted(IDS))
def test_a_spec_survives_json_and_leaves_the_horizon_to_the_dream(name):
    spec = gym.spec(name)
    assert gym.envs.registration.EnvSpec.from_json(spec.to_json()) == spec
    assert spec.max_episode_steps is None
    assert spec.kwargs == ({"game": name.split("-")[1]} if name.count("-") == 2 else {})


def test_the_entry_points_lead_to_the_environments():
    spec = gym.spec("JEDIDream-Breakout-v0")
    assert gym.envs.registration.load_env_creator(spec.entry_point) is DreamEnv
    assert gym.envs.registration.load_env_creator(spec.vector_entry_point) is DreamVectorEnv


def test_every_public_name_is_there_and_listed():
    for name in jedi_env.__all__:
        assert getattr(jedi_env, name) is not None
        assert name in dir(jedi_env)


def test_type_checkers_see_what_users_get():
    """The names of the TYPE_CHECKING block are the lazy ones, from the same modules."""
    tree = ast.parse((ROOT / "jedi_env" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    declared = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert declared == {**jedi_env._HOME, "metrics": "jedi_env"}
    assert set(jedi_env.__all__) == {*declared, "GAMES", "__version__"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'jedi_env' has no attribute 'Chekpoint'"):
        jedi_env.Chekpoint  # noqa: B018


def test_one_version_everywhere():
    assert jedi_env.__version__ == importlib.metadata.version("jedi-env") == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_lock_pins_all_that_the_project_asks_for():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    extras = PROJECT["optional-dependencies"]
    asked = [Requirement(line) for group in (PROJECT["dependencies"], *extras.values()) for line in group]
    for requirement in asked:
        if requirement.name == "jedi-env":
            assert requirement.extras == set(extras) - {"all", "dev"}
        else:
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_the_wheel_holds_both_packages_and_nothing_else(tracked, tmp_path):
    for name in tracked:  # a copy, so that nothing left over from an earlier build can get in
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "tree" / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path / "tree"],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.namelist()
        info = f"jedi_env-{PROJECT['version']}.dist-info"
        assert "jedi-env = trainers.__main__:main" in archive.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in packed
    assert {"jedi_env/py.typed", "trainers/py.typed"} <= set(packed)
    source = {name for name in tracked if name.split("/")[0] in ("jedi_env", "trainers")}
    assert {name for name in packed if not name.startswith(info)} == source


def test_the_command_line_without_its_libraries_says_what_to_install():
    code = "import sys; sys.modules['tyro'] = None; from trainers.__main__ import main; main()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == "jedi-env: the command line needs tyro: pip install 'jedi-env[train]'.\n"
