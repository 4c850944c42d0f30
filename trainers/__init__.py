"""Agents and loops around ``jedi_env``: the native trainer, its command line and its presets.

Never imported by ``jedi_env``.
"""
