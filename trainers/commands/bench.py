"""``jedi-env bench``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from jedi_env.arguments import check_flags
from jedi_env.errors import UsageError, nearest


@dataclass(frozen=True)
class Bench:
    """Measure how fast this machine dreams and learns, how much memory that takes, and how both grow.

    Writes bench.json and two pictures; about nine minutes on two cores. Leave the machine alone meanwhile.

    Attributes:
        out: folder for what it writes.
        page: write the results as a page in Markdown too, with the pictures in img beside it.
        quick: a look in about a minute: few sizes, a small budget.
        lanes: dreams side by side; those that would not fit or would take too long are passed over, and said so.
        parts: what to measure: dream, updates, layers, growth.
        model: the preset that is measured.
        baseline: the preset that it is compared with.
        small: the preset inside the layers that users see: Gymnasium, Stable-Baselines3.
        against: a checkout of github.com/eloialonso/diamond, whose own code is timed too.
        seconds: how long each thing is repeated.
        longest: seconds that one step may take.
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: auto, float32, bfloat16, float16.
        compile: compile the world model.
        threads: of torch; default: as torch likes.
        json: print the JSON.
    """

    out: Path = Path("runs/bench")
    page: Path | None = None
    quick: bool = False
    lanes: tuple[int, ...] | None = None
    parts: tuple[str, ...] | None = None
    model: str = "paper"
    baseline: str = "diamond"
    small: str = "tiny"
    against: Path | None = None
    seconds: float | None = None
    longest: float = 10.0
    device: str = "auto"
    dtype: str = "auto"
    compile: bool = False
    threads: int | None = None
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Measure, write, tell."""
        from jedi_env.device import resolve_compile, resolve_device, resolve_dtype
        from jedi_env.folder import check_writable
        from trainers.benchmarks.bench import PARTS, BenchConfig, bench
        from trainers.benchmarks.clock import Place
        from trainers.benchmarks.page import page, save_pictures
        from trainers.benchmarks.public import check_checkout
        from trainers.presets import PRESETS

        lanes = self.lanes or ((1, 8, 32) if self.quick else BenchConfig.lanes)
        check_flags(*(("--lanes", number, 1) for number in lanes))
        if self.threads is not None:
            check_flags(("--threads", self.threads, 1))
        seconds = self.seconds if self.seconds is not None else (0.5 if self.quick else BenchConfig.seconds)
        if min(seconds, self.longest) < 0:
            raise UsageError("--seconds and --longest are seconds: write numbers of at least 0.")
        for flag, preset in (("--model", self.model), ("--baseline", self.baseline), ("--small", self.small)):
            if preset not in PRESETS:
                raise UsageError(f"{flag} is {preset!r}.{nearest(preset, PRESETS)} Write one of: {', '.join(PRESETS)}.")
        for part in self.parts or ():
            if part not in PARTS:
                raise UsageError(f"Unknown part {part!r}.{nearest(part, PARTS)} Write some of: {', '.join(PARTS)}.")
        if self.against is not None:
            check_checkout(self.against)
        device = resolve_device(self.device)
        dtype = str(resolve_dtype(self.dtype, device)).removeprefix("torch.")
        place = Place(str(device), dtype, resolve_compile(self.compile, device), self.threads)
        config = BenchConfig(
            model=self.model,
            baseline=self.baseline,
            small=self.small,
            lanes=tuple(sorted(set(lanes))),
            seconds=seconds,
            longest=self.longest,
            horizon=2 if self.quick else BenchConfig.horizon,
            parts=self.parts or PARTS,
            against=None if self.against is None else str(self.against),
            quick=self.quick,
        )
        for folder in (self.out, *([] if self.page is None else [self.page.parent])):
            check_writable(folder)
        record = bench(config, place, lambda what: print(f"Measuring: {what} ...", file=sys.stderr))
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "bench.json").write_text(json.dumps(record, indent=1))
        pictures = save_pictures(record, self.out)
        if self.page is not None:
            pictures = save_pictures(record, self.page.parent / "img")
            relative = [os.path.relpath(picture, self.page.parent) for picture in pictures]
            self.page.write_text(page(record, relative))
        if self.json:
            print(json.dumps(record))
            return
        print(page(record))
        print(f"Written: {', '.join(str(path) for path in [self.out / 'bench.json', *pictures, self.page] if path)}")
