"""Learned dreams of Atari games: train them, play in them, and measure how far to trust them.

Begin with `jedi-env list`, `jedi-env play Breakout --agent --record dream.mp4` and `jedi-env dream Breakout`, which
trains PPO in a dream and plays the real game. Exit codes: 0 success, 1 a failed run, 2 bad usage.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, get_args

import tyro

from jedi_env.errors import CheckpointError, JediEnvError, UsageError, nearest
from trainers.commands.bench import Bench
from trainers.commands.dream import Dream
from trainers.commands.eval import Eval
from trainers.commands.fidelity import Fidelity
from trainers.commands.import_diamond import ImportDiamond
from trainers.commands.info import Info
from trainers.commands.list import List
from trainers.commands.play import Play
from trainers.commands.report import Report
from trainers.commands.sweep import Sweep
from trainers.commands.train import Train

Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Dream, tyro.conf.subcommand("dream")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Play, tyro.conf.subcommand("play")]
    | Annotated[ImportDiamond, tyro.conf.subcommand("import-diamond")]
    | Annotated[Fidelity, tyro.conf.subcommand("fidelity")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)
VERBS = tuple(verb.__metadata__[0].name for verb in get_args(Command))


def main(args: list[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 or 2."""
    sys.path.append(os.getcwd())  # where a module that registers an environment of the user's own will lie
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    words = sys.argv[1:] if args is None else args
    with exit_codes("jedi-env"):
        if words and not words[0].startswith("-") and words[0] not in VERBS:
            raise UsageError(
                f"There is no command {words[0]!r}.{nearest(words[0], VERBS)} Write one of: {', '.join(VERBS)}."
            )
    command, rest = tyro.cli(Command, prog="jedi-env", description=__doc__, args=args, return_unknown_args=True)
    with exit_codes("jedi-env"):
        if rest and not isinstance(command, Train | Sweep):
            name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(command).__name__).lower()
            raise UsageError(f"Unknown arguments: {' '.join(rest)}. Write `jedi-env {name} --help` to see them all.")
        command.run(rest)


@contextmanager
def exit_codes(program: str) -> Iterator[None]:
    """Say an error that was raised on purpose in its own sentence and exit.

    With 2 on bad usage, a checkpoint that cannot be opened included; else with 1.
    SIGTERM interrupts as Ctrl-C does.
    """
    try:
        with _terminable():
            yield
    except (UsageError, CheckpointError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except JediEnvError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # whoever reads has enough: Python says so itself
        raise
    except OSError as error:
        print(f"{program}: {error}. Make it readable and writable, or write another path.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as interruption:
        print(f"{program}: {str(interruption) or 'interrupted'}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _terminable() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where Python sets no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
