"""The verbs of the command line, one a file; ``trainers/cli.py`` puts them together."""
