"""Checkpoints on the Hugging Face hub: ``hub://owner/repo[@revision]`` -> a folder of its local cache.

The only file that imports ``huggingface_hub`` (the ``[hub]`` extra), which downloads each file once, whole, under a
lock that other processes wait for. Nothing in the folder is trusted here: reading it is the checkpoint's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jedi_env.errors import CheckpointError, UsageError

PREFIX = "hub://"
_ADDRESS = re.compile(r"hub://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)


def download(address: str, files: Sequence[str]) -> Path:
    """Return the folder with those of ``files`` that the repository has, downloading what is not in the cache yet.

    Args:
        address: ``hub://owner/repo``, or ``hub://owner/repo@revision`` with a commit, tag or branch. Only a commit's
            full hash pins the content; it also needs no network once it is in the cache.
        files: names to fetch; nothing else is.

    Raises:
        UsageError: the address is none, or ``huggingface_hub`` is not installed.
        CheckpointError: no such repository or revision, or it is not in the cache and the hub cannot be reached.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UsageError(
            f"{address!r} is no address on the hub: write hub://owner/repo, or hub://owner/repo@revision with a "
            "commit, tag or branch."
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HFValidationError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise UsageError(f"{address} needs huggingface_hub: pip install 'jedi-env[hub]'.") from error

    repo, revision = match["repo"], match["revision"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files), library_name="jedi-env"))
    except HFValidationError as error:
        raise UsageError(f"{address!r} is no address on the hub: {error}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"The hub has no repository {repo!r} that you may read: look for a typing error; if it is private, log in "
            "with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"The repository {repo!r} on the hub has no revision {revision!r}.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{address} is not (completely) in the local cache, and the hub cannot be reached: this machine is "
            "offline, or HF_HUB_OFFLINE is set. Go online once, or copy the checkpoint's folder here and pass its path."
        ) from error
    except Exception as error:  # whatever the HTTP library of this version of huggingface_hub raises
        raise CheckpointError(
            f"{address} could not be downloaded: {type(error).__name__}: {error}. Nothing was loaded; try again."
        ) from error
