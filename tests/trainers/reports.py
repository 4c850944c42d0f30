"""What the tests of a report share: runs written without training, and their page as a browser reads it."""

import json
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np

from jedi_env.config_json import to_json
from jedi_env.games import GAMES
from jedi_env.metrics import HUMAN_SCORES, RANDOM_SCORES
from trainers.presets import PAPER, TINY
from trainers.report import gather
from trainers.report_page import Made, render
from trainers.report_tables import AGAINST

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
MADE = Made("jedi-env report runs/a", NOW, "0123abc", "a machine", "0.1.0", draw=True)
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


def write_run(folder, game="Breakout", seed=0, config=TINY, scores=((1.0, 3.0),), finished=True):
    """Write what `jedi-env train` leaves, without training: an evaluation, 100 real steps and a minute an epoch."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"game": game, "seed": seed, "config": to_json(config)}))
    lines, records = [], []
    for epoch, returns in enumerate(scores):
        steps = 100.0 * (epoch + 1)
        last = finished and epoch == len(scores) - 1
        lines += [
            {
                "epoch": epoch,
                "phase": "collect",
                "real_steps": steps,
                "games": 2.0,
                "score": epoch + 0.5,
                "seconds": 20.0,
            },
            {
                "epoch": epoch,
                "phase": "imagine",
                "dream_reward": 0.1 * epoch,
                "imagined_steps": 10 * steps,
                "seconds": 30.0,
            },
            {
                "epoch": epoch,
                "phase": "evaluate",
                "score": float(np.mean(returns)),
                "episodes": len(returns),
                "seconds": 10.0,
            },
        ]
        records.append(
            {"game": game, "returns": list(returns), "epoch": epoch, "seed": seed, "real_steps": int(steps)}
            | {"imagined_steps": int(10 * steps), "final": last, "commit": "feedbee", "machine": "M", "protocol": {}}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "scores.json").write_text(json.dumps(records))
    if finished:
        (folder / "checkpoint").mkdir()
        told = {"format": "jedi-env checkpoint", "provenance": {"commit": "feedbee", "machine": "M"}, "metrics": {}}
        (folder / "checkpoint" / "config.json").write_text(json.dumps(told))
    return folder


def all_games(folder, value, seeds=2):
    """Runs on all 26 games whose HNS is ``value(game, seed)``."""
    for game in GAMES:
        for seed in range(seeds):
            score = RANDOM_SCORES[game] + value(game, seed) * (HUMAN_SCORES[game] - RANDOM_SCORES[game])
            write_run(folder / f"{game}-{seed}", game, seed, PAPER, scores=[(score,)])
    return sorted(folder.iterdir())


def page_of(*folders, against=AGAINST):
    return render(gather(folders, NOW), against, MADE)


class Page(HTMLParser):
    """Text by element; complains about tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.urls, self.rows, self.text = [], [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.urls += [value for key, value in attributes if key in ("src", "href", "srcset", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
        if "tr" in self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first):
        return next(row for row in self.rows if row and row[0] == first)
