"""Where a number comes from: the command, commit, machine, versions and configuration that made it."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from jedi_env.config_json import to_json

_LIBRARIES = ("jedi-env", "torch", "gymnasium", "numpy", "ale-py", "stable-baselines3")


def provenance(config: object) -> dict[str, Any]:
    """Return command, commit, machine, versions and the hash of ``config`` (a frozen dataclass)."""
    return {
        "command": command(),
        "commit": _commit(),
        "machine": machine(),
        "versions": versions(),
        "config_hash": config_hash(config),
    }


def command() -> str:
    """Return the command line of this process."""
    module = getattr(sys.modules["__main__"], "__spec__", None)  # where Python was told ``-m module``
    program = Path(sys.argv[0]).name if module is None else f"python -m {module.name.removesuffix('.__main__')}"
    return " ".join((program, *map(shlex.quote, sys.argv[1:])))


def versions() -> dict[str, str]:
    """Return the versions of the libraries that shape a result, of those that are installed."""
    found = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def config_hash(config: object) -> str:
    """Return the first 12 hex digits of the SHA-256 of ``config`` as JSON."""
    return hashlib.sha256(json.dumps(to_json(config), sort_keys=True).encode()).hexdigest()[:12]


def machine() -> str:
    """Return what computes here, in words."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'' if threads == 1 else 's'}"


def _commit() -> str | None:
    """Return the commit of the source tree this runs from (with ``+`` if it was changed), or None outside one."""
    here = Path(__file__).parent
    # An installed package may lie inside another project's tree, whose commit says nothing of it.
    tracked = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
    try:
        subprocess.run(tracked, cwd=here, capture_output=True, check=True)
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
