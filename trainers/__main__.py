"""``jedi-env`` and ``python -m trainers``: the command line, or the sentence that says what it needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without the libraries of the ``[train]`` extra, say so and exit with 2."""
    try:
        from trainers.cli import main as run
    except ModuleNotFoundError as error:
        print(f"jedi-env: the command line needs {error.name}: pip install 'jedi-env[train]'.", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
