"""Every setting of the papers' presets has a source, and the documentation says what the code does."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from trainers.presets import DIAMOND, PAPER, PRESETS
from trainers.sources import (
    ASSUMED,
    DIAMONDS,
    FIXED,
    IN_JEDI,
    JEDI,
    OURS,
    UNKNOWN,
    fixed_table,
    flat,
    settings_of,
    table,
)

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"
TABLES = {"jedi": lambda: table(PAPER), "diamond": lambda: table(DIAMOND), "fixed": fixed_table}
EVERY = [*JEDI.items(), *DIAMONDS.items(), *((name, source) for name, _, source in FIXED)]


@pytest.mark.parametrize(("config", "sources"), [(PAPER, JEDI), (DIAMOND, DIAMONDS)])
def test_every_setting_has_a_source_and_every_source_a_setting(config, sources):
    assert set(sources) == set(flat(config))


def test_every_assumption_says_why():
    for path, source in EVERY:
        assert source.says, path
        assert source.why or source.source not in (ASSUMED, OURS), path
        assert "|" not in source.says + source.source + source.why, path
    for path, source in JEDI.items():
        if source.says.startswith(UNKNOWN):
            assert source.why, path
            assert source.source != IN_JEDI, path


def test_whatever_is_ours_is_off_or_changes_no_result():
    """Each is at the value that its class calls off, or belongs to what draws, saves and scores."""
    off = {path for path, source in JEDI.items() if source.source == OURS and source.why.startswith("off")}
    values = flat(PAPER)
    assert {path: values[path] for path in off if values[path] not in (0, 0.0, False)} == {
        "world_model.reward_end.frame_stack": 1,  # frames
        "world_model.reward_end.event_weight": 1.0,  # a weight
        "world_model.encoder.patch": 1,  # pixels
        "fit_agent.passes": 1,  # a gradient step a rollout
    }
    rest = {path for path, source in JEDI.items() if source.source == OURS} - off
    assert {path.split(".")[0] for path in rest - {"world_model.encoder.scale"}} == {
        "decoder",
        "fit_world_model",
        "bank",
    }


@pytest.mark.parametrize("name", TABLES)
def test_the_page_says_what_the_code_does(name):
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert found, f"docs/papers.md has no table {name}"
    made = TABLES[name]()
    assert found[1] == made, f"put this between the marks of {name} in docs/papers.md:\n{made}"


def test_a_row_of_the_table():
    assert "| `fit-agent.gamma` | 0.985 | 0.985 | JEDI and DIAMOND |  |" in table(PAPER).splitlines()


def test_what_differs_from_the_paper_is_told():
    config = replace(PAPER, fit_agent=replace(PAPER.fit_agent, batch=64))
    told = {setting.path: setting.origin for setting in settings_of(config)}
    assert told["fit_agent.batch"] == "chosen; the paper's preset: 32"
    assert told["fit_agent.horizon"] == "JEDI and DIAMOND"
    assert told["agent.lstm_dim"] == "DIAMOND's code; JEDI's is not known"
    assert told["world_model.covariance_weight"] == "ours: off"
    pixels = {setting.path: setting for setting in settings_of(DIAMOND)}
    assert all(setting.paper is None for setting in pixels.values())
    assert pixels["world_model.encoder.quantise"].origin == "DIAMOND's code"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_told(preset):
    settings = settings_of(PRESETS[preset])
    assert {setting.path: setting.value for setting in settings} == flat(PRESETS[preset])


def test_the_flags_of_the_ablations_are_on_the_page():
    flags = re.findall(r"^\| .* \| `--([a-z.-]+)[^`]*` \|", PAGE.read_text(), re.MULTILINE)
    assert len(flags) >= 9
    known = {path.replace("_", "-") for path in flat(PAPER)} | {"preset"}
    assert {re.sub(r"(^|\.)no-(?=[a-z-]+$)", r"\1", flag) for flag in flags} <= known
