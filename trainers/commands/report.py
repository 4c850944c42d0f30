"""``jedi-env report``."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tyro.conf import Positional

from jedi_env.errors import UsageError


@dataclass(frozen=True)
class Report:
    """Make one self-contained HTML page of run directories: curves, scores beside published ones, aggregates, dreams.

    Runs may be unfinished, crashed or damaged: what they have is shown, and what they lack is said. They are only read.

    Attributes:
        runs: run directories of `jedi-env train` or `make train-demo`, such as runs/*.
        out: the page.
        against: published methods to compare with; default: SimPLe, TWM, IRIS, DreamerV3, STORM, DIAMOND, JEDI.
        draw: draw a dream beside reality, from checkpoint and replay, for one run a method and game that left none.
        json: print the numbers as JSON too.
    """

    runs: Positional[tuple[Path, ...]]
    out: Path = Path("report.html")
    against: tuple[str, ...] | None = None
    draw: bool = True
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Read, compute, write."""
        from trainers.provenance import provenance
        from trainers.report import gather
        from trainers.report_page import Made, render, summary
        from trainers.report_tables import AGAINST, check_against

        if self.out.is_dir():
            raise UsageError(f"--out {self.out} is a folder: write the name of a file, such as report.html.")
        against = check_against(AGAINST if self.against is None else self.against)
        now = datetime.now(UTC)
        gathered = gather(self.runs, now)
        here = provenance(_Asked(against, self.draw))
        made = Made(
            command=self._command(),
            date=now,
            commit=here["commit"],
            machine=here["machine"],
            version=here["versions"].get("jedi-env", "not installed"),
            draw=self.draw,
        )
        page = render(gathered, against, made)
        self._write(page)
        if self.json:
            print(json.dumps(summary(gathered, against, made)))
            return
        unfinished = sum(not run.finished for run in gathered.runs)
        print(f"{self.out}: {len(gathered.runs)} runs, {unfinished} unfinished, {len(page.encode()) / 1e6:.1f} MB")
        for warning in gathered.warnings:
            print(f"  {warning}")

    def _command(self) -> str:
        """Return a command line that makes this page again."""
        words = ["jedi-env", "report", *(str(path) for path in self.runs), "--out", str(self.out)]
        words += [] if self.against is None else ["--against", *self.against]
        return shlex.join([*words, *([] if self.draw else ["--no-draw"])])

    def _write(self, page: str) -> None:
        """Write the page in one step: a reader finds the old one or the new one."""
        aside = self.out.with_name(f".{self.out.name}.{os.getpid()}.tmp")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_text(page, encoding="utf-8")
            os.replace(aside, self.out)
        finally:
            aside.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Asked:
    """What was asked for, in the provenance."""

    against: tuple[str, ...]
    draw: bool
