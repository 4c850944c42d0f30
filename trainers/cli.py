"""The one command, ``jedi-env``: its verbs are in ``trainers/commands/``, one a file.

Exit codes: 0 success, 1 a failed run, 2 bad usage. Arguments are parsed by tyro; every field of a preset is a flag of
``train``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import tyro

from jedi_env.errors import JediEnvError, UsageError
from trainers.commands.dream import Dream
from trainers.commands.eval import Eval
from trainers.commands.info import Info
from trainers.commands.list import List
from trainers.commands.train import Train

Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Dream, tyro.conf.subcommand("dream")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(args: list[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 or 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    command, rest = tyro.cli(Command, prog="jedi-env", description=__doc__, args=args, return_unknown_args=True)
    with exit_codes("jedi-env"):
        if rest and not isinstance(command, Train):
            name = type(command).__name__.lower()
            raise UsageError(f"Unknown arguments: {' '.join(rest)}. Write `jedi-env {name} --help` to see them all.")
        command.run(rest)


@contextmanager
def exit_codes(program: str) -> Iterator[None]:
    """Say an error that was raised on purpose in its own sentence and exit: with 2 on bad usage, else with 1."""
    try:
        yield
    except UsageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except JediEnvError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            f"{program}: interrupted; run the same command again to go on from the last completed epoch",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
