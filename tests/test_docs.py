"""The Python that the pages show runs as it stands, in an empty folder; only its long counts are made short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/catch.md",
    "docs/metrics.md",
    *(f"jedi_env/pretrained/{g}/README.md" for g in ("Assault", "Boxing", "Breakout", "Pong")),
)
SHORT = {"model.learn(400_000)": "model.learn(2048)", "n_eval_episodes=40": "n_eval_episodes=2"}


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("page", "number"), [(page, i) for page in PAGES for i in range(len(blocks(page)))])
def test_what_a_page_shows_runs(page, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = blocks(page)[number]
    for long, short in SHORT.items():
        shown = shown.replace(long, short)
    exec(compile(shown, f"{page}, block {number + 1}", "exec"), {"__name__": "__main__"})


def test_every_page_shows_some_and_what_is_shortened_is_there():
    assert all(blocks(page) for page in PAGES)
    assert all(long in (ROOT / "README.md").read_text() for long in SHORT)
