"""What the tests of several commands need."""

import shlex

import pytest

from trainers.cli import main


@pytest.fixture
def jedi(capsys):
    """Run a command line; return its exit code and what it printed."""

    def run(line):
        capsys.readouterr()
        code = 0
        try:
            main(shlex.split(line))
        except SystemExit as exit_:
            code = exit_.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
