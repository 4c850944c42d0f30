"""Who may import whom, and where things live: read from the source, so that nothing has to be imported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("jedi_env", "trainers")
    for path in sorted((ROOT / package).rglob("*.py"))
}
MODELS = "jedi_env.models"
PARTS = {f"{MODELS}.{name}" for name in ("encoder", "reward_end", "sampler", "decoder")}

FOUNDATIONS = {"jedi_env.errors", "jedi_env.types", "jedi_env.noise", "jedi_env.actions", "jedi_env.share"}

# All that these modules may import of the project. A module that is not named here has only the bans below.
MAY_IMPORT = {
    "jedi_env": {
        "jedi_env.games",
        "jedi_env.metrics",
        "jedi_env.checkpoint",
        "jedi_env.diamond",
        "jedi_env.envs.check",
        "jedi_env.envs.real",
    },
    "jedi_env.errors": set(),
    "jedi_env.arguments": {"jedi_env.errors"},
    "jedi_env.games": {"jedi_env.errors"},
    "jedi_env.types": {"jedi_env.errors"},
    "jedi_env.noise": {"jedi_env.errors"},
    "jedi_env.actions": {"jedi_env.errors"},
    "jedi_env.share": set(),
    "jedi_env.dream": FOUNDATIONS,  # it knows the world model by a Protocol alone
    f"{MODELS}.blocks": {"jedi_env.errors"},
    f"{MODELS}.unet": {"jedi_env.errors", f"{MODELS}.blocks"},
    f"{MODELS}.reward_heads": set(),
    f"{MODELS}.spread": set(),
    f"{MODELS}.denoiser": {*FOUNDATIONS, f"{MODELS}.blocks", f"{MODELS}.unet"},
    **{part: {*FOUNDATIONS, f"{MODELS}.blocks", f"{MODELS}.unet"} for part in PARTS},
    f"{MODELS}.reward_end": {*FOUNDATIONS, f"{MODELS}.blocks", f"{MODELS}.unet", f"{MODELS}.reward_heads"},
}

# (whoever lives here, must not import this)
BANS = [
    ("jedi_env", "trainers"),
    ("jedi_env.checkpoint", "jedi_env.dream"),
    ("jedi_env.checkpoint", "jedi_env.envs"),
    ("jedi_env.checkpoint", "jedi_env.find"),
    ("jedi_env.checkpoint_config", "jedi_env.checkpoint"),
    ("jedi_env.metrics", "jedi_env.sb3"),
    ("jedi_env.envs", "jedi_env.sb3"),
]

# The files through which an optional library comes in; the core works without any of them.
DOORS = {
    "ale_py": {"jedi_env/envs/atari.py"},
    "huggingface_hub": {"jedi_env/hub.py"},
    "stable_baselines3": {"jedi_env/sb3.py", "trainers/sb3.py", "trainers/demo.py"},
    "sb3_contrib": {"trainers/sb3.py"},
    "tyro": {
        "trainers/ablations.py",
        "trainers/cli.py",
        "trainers/commands",
        "trainers/demo.py",
        "trainers/distill.py",
        "trainers/gpu.py",
        "trainers/pack.py",
        "trainers/quality.py",
        "trainers/ship.py",
    },
    "tensorboard": {"trainers/log.py"},
    "torch.utils.tensorboard": {"trainers/log.py"},
    "pygame": {"jedi_env/envs/window.py", "trainers/players.py"},
    "imageio": {"trainers/video.py"},
    "av": {"trainers/video.py"},
    "jinja2": {"trainers/report_page", "trainers/ship.py"},
    "markupsafe": {"trainers/report_page"},
    "ray": {"trainers/sweep.py"},
}
TRAINERS_ONLY = {"imageio", "av", "matplotlib", "PIL", "ray", "jinja2"}

TOP_LEVEL = {
    "pyproject.toml",
    "jedi_env",
    "trainers",
    "tests",
    "examples",
    "docs",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    "requirements.lock",
}

OPTIONAL = {"gpu"}  # a run on a lent GPU between two lends (docs/gpu.md)

THIRTY_SECOND_TEST = [
    ("the denoising loss", "jedi_env/models/denoiser.py", "Denoiser.loss"),
    ("the dream step", "jedi_env/dream.py", "Dream.step"),
    ("the training loop", "trainers/train.py", "train"),
]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imports(module: str, source: str) -> Iterator[str]:
    """Every module that ``source`` imports at any depth, by ``import_module("literal")`` too.

    ``from a import b`` yields ``a.b`` where that is a module of the project (or where ``a`` is not ours), else ``a``.
    """
    package = module if SOURCES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            ancestors = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*ancestors, *([node.module] if node.module else [])])
            ours = base.split(".")[0] in ("jedi_env", "trainers")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in SOURCES or not ours else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


IMPORTS = {module: set(imports(module, path.read_text())) for module, path in SOURCES.items()}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.utils.tensorboard as tb", {"torch.utils.tensorboard"}),
        ("def f():\n    from jedi_env.types import Segment", {"jedi_env.types"}),
        ("from jedi_env import types", {"jedi_env.types"}),
        ("from ..types import Segment", {"jedi_env.types"}),
        ("from . import blocks", {"jedi_env.models.blocks"}),
        ("from .blocks import conv3x3", {"jedi_env.models.blocks"}),
        ("import importlib\nimportlib.import_module('ale_py')", {"importlib", "ale_py"}),
        ("from torch.utils import tensorboard", {"torch.utils.tensorboard"}),
    ],
)
def test_the_import_reader_sees_every_form(source, expected):
    assert set(imports("jedi_env.models.unet", source)) == expected


def test_imports_keep_their_direction():
    faults = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if within(name, "jedi_env") or within(name, "trainers")
        if (module in MAY_IMPORT and name not in MAY_IMPORT[module])
        or (within(module, MODELS) and not within(name, MODELS) and name not in FOUNDATIONS)
        or any(within(module, here) and within(name, banned) for here, banned in BANS)
    ]
    assert not faults


def test_every_module_that_a_rule_names_exists():
    named = {*MAY_IMPORT, *(name for rule in BANS for name in rule)}
    assert {name for name in named if name not in SOURCES} == set()


@pytest.mark.parametrize("library", sorted(DOORS))
def test_an_optional_library_comes_in_by_its_door(library):
    users = {
        str(SOURCES[module].relative_to(ROOT))
        for module, names in IMPORTS.items()
        if any(within(name, library) for name in names)
    }
    assert not {user for user in users if not any(Path(user).is_relative_to(door) for door in DOORS[library])}


def test_the_environment_package_draws_no_plots_and_runs_no_cluster():
    faults = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if within(module, "jedi_env") and name.split(".")[0] in TRAINERS_ONLY
    ]
    assert not faults


def test_files_are_never_unpickled():
    loads = []
    for module, path in SOURCES.items():
        assert not {name.split(".")[0] for name in IMPORTS[module]} & {"pickle", "dill", "shelve", "marshal", "joblib"}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "torch":
                assert "load" not in {alias.name for alias in node.names}
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                loads.append((module, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}))
    assert len(loads) <= 1
    for module, keywords in loads:
        assert module == "jedi_env.diamond"
        assert keywords["weights_only"] == "True"


def test_the_top_level_of_the_repository(tracked):
    assert {name.split("/")[0] for name in tracked if not name.startswith(".")} - OPTIONAL == TOP_LEVEL


def test_nothing_is_called_jedi(tracked):
    """The autocompletion library owns that module name."""
    assert not [name for name in tracked if "jedi" in name.split("/") or Path(name).name == "jedi.py"]


def test_no_file_points_outside_the_repository(tracked):
    outside = ["sha" + "red/", "CON" + "TRACT.md", "ECO" + "SYSTEM.md", "FEASI" + "BILITY.md", "ARCHI" + "TECTURE.md"]
    texts = {name: (ROOT / name).read_bytes() for name in tracked}
    assert not [(name, word) for name, text in texts.items() for word in outside if word.encode() in text]


@pytest.mark.parametrize(("what", "file", "qualified_name"), THIRTY_SECOND_TEST)
def test_it_is_found_in_thirty_seconds(what, file, qualified_name):
    body = ast.parse((ROOT / file).read_text()).body
    *classes, function = qualified_name.split(".")
    for name in classes:
        (body,) = [node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name]
    assert [node for node in body if isinstance(node, ast.FunctionDef) and node.name == function]
    pointer = re.compile(rf"{what}\W+`{re.escape(file)}:\s*{re.escape(qualified_name)}`", re.IGNORECASE)
    assert pointer.search((ROOT / "CONTRIBUTING.md").read_text())
