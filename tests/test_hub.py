"""Checkpoints come from the hub whole, once, at the revision asked for; and it is said why if they do not."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors as hub_errors
import pytest
from tiny_dream import tiny_checkpoint

from jedi_env import hub
from jedi_env.checkpoint_config import FILES
from jedi_env.errors import CheckpointError, UsageError
from jedi_env.find import find_checkpoint

ROOT = Path(__file__).parents[1]
REVISIONS = {"main": "a" * 40, "v1": "b" * 40}
READERS = 3


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as a download needs; ``server.folders`` has a folder for each commit."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        path = self.path.split("?")[0]
        self.server.asked.append((self.command, path))
        parts = path.strip("/").split("/")
        if parts[:4] == ["api", "models", "owner", "dream"] and parts[4:5] == ["revision"]:
            self.server.arrivals.release()
            commit = REVISIONS.get(parts[5], parts[5])
            if commit not in self.server.folders:
                return self.reply(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
            return self.reply(json.dumps({"id": "owner/dream", "sha": commit, "siblings": []}).encode())
        if parts[:4] == ["api", "models", "owner", "dream"] and parts[4:5] == ["tree"]:
            files = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": self.blob(file)}
                for file in self.server.folders[parts[5]].iterdir()
            ]
            return self.reply(json.dumps(files).encode())
        if parts[:3] == ["owner", "dream", "resolve"]:
            file = self.server.folders[parts[3]] / parts[4]
            return self.reply(file.read_bytes(), 200, {"ETag": f'"{self.blob(file)}"', "X-Repo-Commit": parts[3]})
        return self.reply(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self):
        self.do_GET()

    def blob(self, file):
        return hashlib.sha1(file.read_bytes()).hexdigest()

    def reply(self, body, status=200, headers=None):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if self.path.endswith("model.safetensors") and not self.server.held.is_set():
            self.server.held.set()  # the first download stops halfway until the others have come
            for _ in range(self.server.wait_for):
                self.server.arrivals.acquire(timeout=60)
        self.wfile.write(body[half:])


@pytest.fixture
def server(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.asked, server.folders = [], {}
        server.arrivals, server.held, server.wait_for = threading.Semaphore(0), threading.Event(), 0
        for seed, commit in enumerate(REVISIONS.values()):
            tiny_checkpoint(seed=seed).save(tmp_path / commit)
            (tmp_path / commit / "README.md").write_text("not for us")
            server.folders[commit] = tmp_path / commit
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


SCRIPT = """
import sys
from jedi_env.find import find_checkpoint
from jedi_env.errors import JediEnvError
for address in sys.argv[1:]:
    try:
        print(find_checkpoint("Breakout", address).provenance["seed"])
    except JediEnvError as error:
        print(error)
"""


def start(server, cache, *addresses, **environment):
    """A process of its own that loads ``addresses`` and prints the seed of each, or why not."""
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        **environment,
    }
    command = [sys.executable, "-c", SCRIPT, *addresses]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}, stdout=pipe, stderr=pipe, text=True)


def said(process):
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out.splitlines()


def test_many_processes_share_one_download_and_then_need_no_network(server, tmp_path):
    cache, pinned = tmp_path / "cache", f"hub://owner/dream@{REVISIONS['v1']}"
    server.wait_for = READERS
    others = [start(server, cache, "hub://owner/dream") for _ in range(READERS - 1)]
    addresses = ["hub://owner/dream", pinned, "hub://owner/dream@v1", "hub://owner/dream@v2", "hub://owner/nobody"]
    main, seed, branch, missing, nobody = said(start(server, cache, *addresses))
    assert [said(other) for other in others] == [["0"]] * (READERS - 1)
    assert (main, seed, branch) == ("0", "1", "1")
    assert missing == "The repository 'owner/dream' on the hub has no revision 'v2'."
    assert nobody.startswith("The hub has no repository 'owner/nobody' that you may read")
    downloads = [path.split("/")[-2:] for command, path in server.asked if command == "GET" and "resolve" in path]
    ours = {"config.json", "model.safetensors", "contexts.safetensors"}
    assert sorted(downloads) == sorted([commit, name] for commit in REVISIONS.values() for name in ours)  # each once

    asked = len(server.asked)
    found, not_there = said(start(server, cache, pinned, "hub://owner/other", HF_HUB_OFFLINE="1"))
    assert found == "1"
    assert not_there.startswith(
        "hub://owner/other is not (completely) in the local cache, and the hub cannot be reached"
    )
    assert len(server.asked) == asked


def test_the_files_of_the_asked_revision_are_fetched(tmp_path, monkeypatch):
    asked = []

    def download(repo, **arguments):
        asked.append((repo, arguments["revision"], arguments["allow_patterns"]))
        return str(tmp_path / "dream")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    tiny_checkpoint().save(tmp_path / "dream")
    for address in ("hub://owner/dream", "hub://owner/dream@v1", "hub://owner.x/dre-am_2@refs/pr/1"):
        assert find_checkpoint("Breakout", address).game == "Breakout"
    assert asked == [
        ("owner/dream", None, list(FILES)),
        ("owner/dream", "v1", list(FILES)),
        ("owner.x/dre-am_2", "refs/pr/1", list(FILES)),
    ]


def test_the_links_of_the_hubs_cache_are_followed_but_no_others(tmp_path):
    tiny_checkpoint().save(tmp_path / "dream")
    snapshot, blobs = (
        tmp_path / "models--owner--dream" / "snapshots" / ("a" * 40),
        tmp_path / "models--owner--dream/blobs",
    )
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in os.listdir(tmp_path / "dream"):
        (tmp_path / "dream" / name).rename(blobs / f"blob-{name}")
        (snapshot / name).symlink_to(f"../../blobs/blob-{name}")
    assert find_checkpoint("Breakout", snapshot).game == "Breakout"
    (blobs / "blob-model.safetensors").rename(tmp_path / "elsewhere")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    (snapshot / "config.json").write_text((snapshot / "config.json").read_text() + " ")  # so that it is read again
    with pytest.raises(CheckpointError, match="a link that climbs out"):
        find_checkpoint("Breakout", snapshot)


@pytest.mark.parametrize(
    "address", ["hub://", "hub://dream", "hub://owner/", "hub://a/b/c", "hub://a/b@", "hub://a/b@x y", "hub://../../x"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UsageError, match="is no address on the hub: write hub://owner/repo"):
        find_checkpoint("Breakout", address)


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"hub://owner/dream needs huggingface_hub: pip install 'jedi-env\[hub\]'"):
        hub.download("hub://owner/dream", FILES)


@pytest.mark.parametrize(
    ("cause", "error", "message"),
    [
        (hub_errors.LocalEntryNotFoundError("x"), CheckpointError, "cannot be reached: this machine is offline"),
        (hub_errors.OfflineModeIsEnabled("x"), CheckpointError, "HF_HUB_OFFLINE is set"),
        (hub_errors.HFValidationError("two dots"), UsageError, "is no address on the hub: two dots"),
        (OSError("no space left"), CheckpointError, "could not be downloaded: OSError: no space left"),
        (ValueError("odd"), CheckpointError, "could not be downloaded: ValueError: odd"),
    ],
)
def test_what_goes_wrong_is_said(monkeypatch, cause, error, message):
    def download(*args, **kwargs):
        raise cause

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(error, match=message):
        hub.download("hub://owner/dream", FILES)
