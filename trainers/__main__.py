"""``jedi-env`` and ``python -m trainers``: the command line, or the sentence that says what it needs."""

from __future__ import annotations

import os
import select
import sys


def main() -> None:
    """Run the command line; without the libraries of the ``[train]`` extra, say so and exit with 2.

    Where the reader of what it prints has left (``| head``), it exits with 1 and no more words.
    """
    try:
        from trainers.cli import main as run
    except ModuleNotFoundError as error:
        print(f"jedi-env: the command line needs {error.name}: pip install 'jedi-env[train]'.", file=sys.stderr)
        sys.exit(2)
    try:
        try:
            run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_left():  # another pipe: a worker's, say
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(1)


def _reader_left() -> bool:
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


if __name__ == "__main__":
    main()
