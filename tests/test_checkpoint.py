"""A checkpoint comes back bit for bit, is replaced whole, is found where the order says, and is never trusted."""

import contextlib
import copy
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mutation import mutated_bytes, mutated_json
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save
from tiny_dream import LATENT, NUM_ACTIONS, PIXEL, tiny_checkpoint, tiny_model

from jedi_env import checkpoint as module
from jedi_env.checkpoint import FILES, VERSION, AgentRecord, Checkpoint, find_checkpoint, homes, locate
from jedi_env.dream import Dream
from jedi_env.errors import CheckpointError, UsageError
from jedi_env.games import GAMES
from jedi_env.models.decoder import Decoder
from jedi_env.types import Context


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A checkpoint with everything in it, which no test changes."""
    path = tmp_path_factory.mktemp("pristine") / "dream"
    tiny_checkpoint(agent=True, decoder=True).save(path)
    return path


@pytest.fixture
def folder(pristine, tmp_path):
    """A copy of it to play with."""
    return Path(shutil.copytree(pristine, tmp_path / "dream"))


def dreamt(checkpoint, steps=6):
    """Everything that is seen of a dream."""
    dream = Dream(checkpoint.world_model, checkpoint.contexts, horizon=4)
    dream.reset(range(3))
    seen = [dream.observation(2)]
    for t in range(steps):
        transition = dream.step(torch.tensor([t % NUM_ACTIONS, 1, 2]))
        dream.restart(transition.done)
        seen += [dream.observation(1), transition.prediction.reward_probs, transition.prediction.termination_prob]
    return torch.cat([tensor.flatten() for tensor in seen])


def same(a, b):
    """Whether two checkpoints hold the same, bit for bit."""
    tensors = []
    for checkpoint in (a, b):
        model, agent = checkpoint.world_model, checkpoint.agent
        found = {f"model.{k}": v for k, v in model.state_dict().items()}
        if isinstance(model.decoder, Decoder):
            found |= {f"decoder.{k}": v for k, v in model.decoder.state_dict().items()}
        if agent is not None:
            found |= {f"agent.{k}": v for k, v in agent.tensors.items()}
        tensors.append({**found, "frames": checkpoint.contexts.frames, "actions": checkpoint.contexts.actions})
    facts = [
        (c.game, c.horizon, c.protocol, c.provenance, c.metrics, c.agent and c.agent.config, c.world_model.config)
        for c in (a, b)
    ]
    return (
        facts[0] == facts[1]
        and tensors[0].keys() == tensors[1].keys()
        and all(x.dtype == tensors[1][k].dtype and torch.equal(x, tensors[1][k]) for k, x in tensors[0].items())
    )


# There and back


@pytest.mark.parametrize(
    ("config", "extras"),
    [(LATENT, {}), (LATENT, {"agent": True}), (LATENT, {"decoder": True, "agent": True}), (PIXEL, {"agent": True})],
    ids=["latent", "with agent", "with decoder", "pixel"],
)
def test_it_comes_back_bit_for_bit(tmp_path, config, extras):
    checkpoint = tiny_checkpoint(config, **extras)
    checkpoint.save(tmp_path / "parent" / "dream")
    again = Checkpoint.load(tmp_path / "parent" / "dream")
    assert same(checkpoint, again)
    assert torch.equal(dreamt(checkpoint), dreamt(again))
    pixels = torch.arange(64 * 64 * 3).remainder(256).to(torch.uint8).view(1, 64, 64, 3)
    assert torch.equal(checkpoint.world_model.encode(pixels), again.world_model.encode(pixels))
    if "decoder" in extras:
        frames = checkpoint.contexts.frames[:, 0]
        assert torch.equal(checkpoint.world_model.decoder.decode(frames), again.world_model.decoder.decode(frames))


def test_the_folder_is_what_the_documentation_says(folder):
    assert {path.name for path in folder.iterdir()} == set(FILES)
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == "jedi-env checkpoint"
    assert config["version"] == 1
    assert config["game"] == "Breakout"
    for name, record in config["files"].items():
        content = (folder / name).read_bytes()
        assert record == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert set(config["files"]) == set(FILES) - {"config.json"}


def test_what_is_loaded_is_at_rest(folder):
    loaded = Checkpoint.load(folder)
    for part in (loaded.world_model, loaded.world_model.decoder):
        assert not any(module.training for module in part.modules())
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert not any(tensor.is_meta for tensor in part.state_dict().values())


def test_loading_draws_no_random_numbers(folder):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Checkpoint.load(folder)
    assert torch.equal(torch.rand(1), expected)


def test_saving_twice_writes_the_same_bytes(folder, tmp_path):
    tiny_checkpoint(agent=True, decoder=True).save(tmp_path / "again")
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in FILES)


def test_a_context_of_one_frame_has_no_actions(tmp_path):
    checkpoint = tiny_checkpoint(replace(LATENT, context_length=1))
    checkpoint.save(tmp_path / "dream")
    assert same(checkpoint, Checkpoint.load(tmp_path / "dream"))


def test_half_precision_halves_the_weights_and_stays_close(tmp_path):
    checkpoint = tiny_checkpoint(PIXEL, agent=True)
    checkpoint.save(tmp_path / "full")
    checkpoint.save(tmp_path / "half", half=True)
    for name in ("model.safetensors", "contexts.safetensors"):
        assert (tmp_path / "half" / name).stat().st_size < 0.6 * (tmp_path / "full" / name).stat().st_size
    again = Checkpoint.load(tmp_path / "half")
    for name, tensor in again.world_model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, checkpoint.world_model.state_dict()[name].half().float())
    assert torch.equal(again.contexts.actions, checkpoint.contexts.actions)
    assert torch.equal(again.contexts.frames, checkpoint.contexts.frames.half().float())
    assert again.agent.tensors["policy.weight"].dtype == torch.float32
    assert torch.equal(again.agent.tensors["count"], torch.tensor(7))
    dreamt(again)


def test_contexts_stored_in_half_precision_stay_in_the_frames_range(tmp_path):
    bound = 1.1003  # float16 rounds it up
    assert torch.tensor(bound).half().item() > bound
    config = replace(LATENT, encoder=replace(LATENT.encoder, bound=bound))
    checkpoint = tiny_checkpoint(config)
    checkpoint.contexts.frames.fill_(bound)
    checkpoint.save(tmp_path / "dream", half=True)
    assert Checkpoint.load(tmp_path / "dream").contexts.frames.max() <= torch.tensor(bound)


# What is not written


def with_contexts(change):
    checkpoint = tiny_checkpoint()
    contexts = checkpoint.contexts
    frames, actions = contexts.frames.clone(), contexts.actions.clone()
    return replace(checkpoint, contexts=Context(*change(frames, actions)))


def broken_weight(value):
    checkpoint = tiny_checkpoint()
    with torch.no_grad():
        checkpoint.world_model.denoiser.conv_in.weight[0, 0, 0, 0] = value
    return checkpoint


def resized():
    checkpoint = tiny_checkpoint()
    checkpoint.world_model.denoiser.conv_out = torch.nn.Conv2d(8, 3, 3)
    return checkpoint


UNSAVEABLE = [
    (lambda: broken_weight(float("nan")), False, CheckpointError, "NaN or infinity in 'denoiser.conv_in.weight'"),
    (lambda: broken_weight(1e6), True, UsageError, "too large for float16"),
    (lambda: with_contexts(lambda f, a: (f * float("inf"), a)), False, CheckpointError, "NaN or infinity in 'frames'"),
    (lambda: with_contexts(lambda f, a: (f[:0], a[:0])), False, UsageError, "has 0 contexts"),
    (lambda: with_contexts(lambda f, a: (f, a[:-1])), False, UsageError, "5 contexts and the actions of 4"),
    (lambda: with_contexts(lambda f, a: (f[:, 1:], a)), False, UsageError, r"'frames' as float32 of shape \(5, 3, 2"),
    (lambda: with_contexts(lambda f, a: (f, a.int())), False, UsageError, "'actions' as int32"),
    (lambda: with_contexts(lambda f, a: (f, a + NUM_ACTIONS)), False, UsageError, "actions that are not from 0 to 3"),
    (lambda: with_contexts(lambda f, a: (f + 4, a)), False, UsageError, "beyond the model's range, -3.0 to 3.0"),
    (lambda: resized(), False, UsageError, r"'denoiser.conv_out.weight' as float32 of shape \(3, 8, 3, 3\)"),
    (lambda: tiny_checkpoint(horizon=0), False, UsageError, "horizon is 0, but must be from 1"),
    (lambda: tiny_checkpoint(horizon=2.5), False, UsageError, "horizon is 2.5"),
    (lambda: tiny_checkpoint(game=3), False, UsageError, "game is 3"),
    (lambda: replace(tiny_checkpoint(), metrics={"x": float("nan")}), False, UsageError, r"metrics\['x'\] is nan"),
    (lambda: replace(tiny_checkpoint(), protocol={"x": Path()}), False, UsageError, r"protocol\['x'\] is PosixPath"),
    (
        lambda: replace(tiny_checkpoint(), agent=AgentRecord({}, {"w": torch.zeros(1, dtype=torch.complex64)})),
        False,
        UsageError,
        "complex64, which a checkpoint does not store",
    ),
]


@pytest.mark.parametrize(("make", "half", "error", "message"), UNSAVEABLE, ids=[case[3][:30] for case in UNSAVEABLE])
@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing"])
def test_what_could_not_be_loaded_is_not_written(tmp_path, make, half, error, message, replacing):
    old = tiny_checkpoint(seed=1)
    if replacing:
        old.save(tmp_path / "dream")
    with pytest.raises(error, match=message):
        make().save(tmp_path / "dream", half=half)
    assert os.listdir(tmp_path) == (["dream"] if replacing else [])
    if replacing:
        assert same(old, Checkpoint.load(tmp_path / "dream"))


def test_only_a_checkpoint_is_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    (tmp_path / "file").write_text("also")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"seed": 1}')
    for name in ("thesis", "file", "run"):
        with pytest.raises(UsageError, match=f"{name} is there and is no checkpoint: it was left as it is"):
            tiny_checkpoint().save(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "run", "thesis"]
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_an_empty_folder_is_filled_and_other_files_are_kept(tmp_path):
    (tmp_path / "dream").mkdir()
    tiny_checkpoint(agent=True).save(tmp_path / "dream")
    (tmp_path / "dream" / "README.md").write_text("about")
    (tmp_path / "dream" / "pictures").mkdir()
    (tmp_path / "dream" / "pictures" / "config.json").write_text("{}")
    new = tiny_checkpoint(seed=1)
    new.save(tmp_path / "dream")
    assert same(new, Checkpoint.load(tmp_path / "dream"))
    assert (tmp_path / "dream" / "README.md").read_text() == "about"
    assert (tmp_path / "dream" / "pictures" / "config.json").read_text() == "{}"
    assert not (tmp_path / "dream" / "agent.safetensors").exists()  # the old one's, which the new one has not
    assert os.listdir(tmp_path) == ["dream"]


def test_a_link_to_a_checkpoint_stays_one(tmp_path, folder):
    (tmp_path / "latest").symlink_to(folder)
    new = tiny_checkpoint(seed=1)
    new.save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert same(new, Checkpoint.load(folder))
    assert same(new, Checkpoint.load(tmp_path / "latest"))


# Interrupted and concurrent


class Break(BaseException):
    """What an interruption looks like."""


def breaking(monkeypatch, name, at, forever, error):
    """Let ``os.<name>`` raise at its ``at``-th call (and ever after); return the list of calls."""
    real: Callable = getattr(os, name)
    calls = []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == at or (forever and len(calls) > at):
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)
    return calls


@pytest.mark.parametrize("error", [OSError("disk"), Break()], ids=["error", "interrupt"])
@pytest.mark.parametrize(
    ("name", "at"), [("rename", 1), ("rename", 2), ("fsync", 1), ("fsync", 2), ("fsync", 4), ("mkdir", 2)]
)
def test_an_interrupted_save_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch, name, at, error):
    old, new = tiny_checkpoint(seed=0), tiny_checkpoint(seed=1, agent=True)
    old.save(tmp_path / "dream")
    with monkeypatch.context() as patch:
        breaking(patch, name, at, False, error)
        with pytest.raises(type(error)):
            new.save(tmp_path / "dream")
    assert os.listdir(tmp_path) == ["dream"]
    assert same(old, Checkpoint.load(tmp_path / "dream"))
    new.save(tmp_path / "dream")
    assert same(new, Checkpoint.load(tmp_path / "dream"))


def test_a_save_breaks_at_no_other_rename(tmp_path, monkeypatch):
    """So that the places tried above are all there are."""
    tiny_checkpoint().save(tmp_path / "dream")
    renames, replaces = (breaking(monkeypatch, name, 0, False, Break()) for name in ("rename", "replace"))
    tiny_checkpoint().save(tmp_path / "dream")
    assert (len(renames), len(replaces)) == (3, 0)  # the third only tidies up


def test_an_interrupted_first_save_leaves_nothing(tmp_path, monkeypatch):
    breaking(monkeypatch, "rename", 2, False, Break())
    with pytest.raises(Break):
        tiny_checkpoint().save(tmp_path / "dream")
    assert os.listdir(tmp_path) == []


def test_a_writer_killed_between_its_two_renames_loses_nothing(tmp_path, monkeypatch):
    old, new = tiny_checkpoint(seed=0), tiny_checkpoint(seed=1)
    old.save(tmp_path / "Breakout")
    with monkeypatch.context() as patch:
        breaking(patch, "rename", 2, True, OSError("gone"))  # not even the way back
        with pytest.raises(OSError, match="gone"):
            new.save(tmp_path / "Breakout")
    assert not (tmp_path / "Breakout").exists()
    assert same(old, Checkpoint.load(tmp_path / "Breakout"))
    monkeypatch.setenv("JEDI_ENV_HOME", str(tmp_path))
    assert same(old, find_checkpoint("Breakout", None))
    new.save(tmp_path / "Breakout")
    assert os.listdir(tmp_path) == ["Breakout"]
    assert same(new, find_checkpoint("Breakout", None))


def test_readers_and_writers_at_once_see_whole_checkpoints(tmp_path):
    versions = [tiny_checkpoint(seed=seed, agent=seed == 1) for seed in range(2)]
    versions[0].save(tmp_path / "dream")
    errors, seen, done = [], [], threading.Event()

    def write(version):
        try:
            for _ in range(8):
                version.save(tmp_path / "dream")
        except BaseException as error:
            errors.append(error)

    def read():
        try:
            while not done.is_set():
                found = Checkpoint.load(tmp_path / "dream")
                seen.append(found.provenance["seed"])
                assert same(versions[seen[-1]], found)
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(version,)) for version in versions]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert errors == []
    assert seen
    assert os.listdir(tmp_path) == ["dream"]


@pytest.mark.parametrize(
    ("where", "what", "at"), [(os, "rename", 1), (os, "rename", 2), (shutil, "copytree", 1), (os, "fsync", 1)]
)
def test_of_two_writers_at_once_the_later_wins(tmp_path, monkeypatch, where, what, at):
    first, second, third = (tiny_checkpoint(seed=seed) for seed in range(3))
    first.save(tmp_path / "dream")
    real, calls = getattr(where, what), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            third.save(tmp_path / "dream")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, what, call)
        second.save(tmp_path / "dream")
    assert len(calls) > at
    assert same(second, Checkpoint.load(tmp_path / "dream"))
    assert os.listdir(tmp_path) == ["dream"]


@pytest.mark.parametrize("replaced", [True, False])
def test_a_folder_that_goes_while_its_other_files_are_copied_is_copied_again(tmp_path, monkeypatch, replaced):
    first, second, third = (tiny_checkpoint(seed=seed) for seed in range(3))
    first.save(tmp_path / "dream")
    real, calls = shutil.copytree, []

    def copytree(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            if replaced:
                third.save(tmp_path / "dream")
            raise shutil.Error("gone")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", copytree)
        with contextlib.nullcontext() if replaced else pytest.raises(shutil.Error, match="gone"):
            second.save(tmp_path / "dream")
    assert same(second if replaced else first, Checkpoint.load(tmp_path / "dream"))
    assert os.listdir(tmp_path) == ["dream"]


@pytest.mark.parametrize("moment", FILES)
def test_a_checkpoint_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch, moment):
    old, new = tiny_checkpoint(seed=0, agent=True, decoder=True), tiny_checkpoint(seed=1, agent=True, decoder=True)
    old.save(tmp_path / "dream")
    real, times = module.inside, []

    def inside(folder, name):
        if name == moment and not times:
            times.append(name)
            new.save(tmp_path / "dream")
        return real(folder, name)

    monkeypatch.setattr(module, "inside", inside)
    assert same(new, Checkpoint.load(tmp_path / "dream"))
    assert times == [moment]


# Refusals


def config_with(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def model_with(part, **changes):
    def change(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        (config["model"][part] if part else config["model"]).update(changes)
        path.write_text(json.dumps(config))

    return change


def written(name, content):
    """Replace a file and its checksum: what whoever made the folder can do."""

    def change(folder):
        data = content(folder) if callable(content) else content
        (folder / name).write_bytes(data)
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        path.write_text(json.dumps(config))

    return change


def damaged(name, change):
    """Change a file's bytes and nothing else: what a bad disk or a cut connection does."""

    def change_file(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return change_file


def tensors_with(name, change):
    def content(folder):
        tensors = safetensors_load((folder / name).read_bytes())
        change(tensors)
        return safetensors_save(tensors)

    return written(name, content)


def header_with(name, change):
    def content(folder):
        data = (folder / name).read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[end:]

    return written(name, content)


def padded(data, length):
    """A safetensors file with spaces at the end of its header, as its format allows."""
    end = 8 + int.from_bytes(data[:8], "little")
    return length.to_bytes(8, "little") + data[8:end].ljust(length) + data[end:]


class Bomb:
    """Unpickling this would leave a mark."""

    def __reduce__(self):
        return os.mkdir, ("bomb",)


def torch_saved(folder):
    torch.save({"weight": torch.zeros(2), "bomb": Bomb()}, folder / "model.safetensors")
    return (folder / "model.safetensors").read_bytes()


def linked_out(name):
    def change(folder):
        shutil.move(folder / name, folder.parent / "outside")
        (folder / name).symlink_to("../outside")

    return change


def in_circles(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")


def no_regular_file(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def first_weight_nan(tensors):
    next(iter(tensors.values())).view(-1)[0] = float("nan")


def huge(header):
    header["denoiser.conv_in.weight"]["shape"] = [10**12]


def other_file(name, old, new):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        config["files"][new] = config["files"].pop(old)
        (folder / "config.json").write_text(json.dumps(config))

    return change


FLIP = -100  # a byte well inside the weights
M, C, A = "model.safetensors", "contexts.safetensors", "agent.safetensors"

REFUSED = {
    # missing
    "nothing there": (shutil.rmtree, "There is no checkpoint at .*dream: no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "lacks config.json"),
    "no weights": (lambda f: (f / M).unlink(), "lacks model.safetensors"),
    "no agent": (lambda f: (f / A).unlink(), "lacks agent.safetensors"),
    # damaged
    "truncated weights": (damaged(M, lambda d: d[:-1000]), r"model.safetensors is truncated: it has \d+ bytes of \d+"),
    "truncated header": (damaged(M, lambda d: d[:100]), "model.safetensors is truncated: it has 100 bytes"),
    "no bytes": (damaged(M, lambda d: b""), "model.safetensors is truncated: it has 0 bytes"),
    "truncated config": (damaged("config.json", lambda d: d[:-9]), "config.json is not JSON"),
    "longer": (damaged(M, lambda d: d + b"\0"), r"declares tensors of \d+ bytes, but holds \d+"),
    "another header": (
        damaged(M, lambda d: padded(d, 8 * 9999)),
        r"model.safetensors was changed: it has \d+ bytes, but",
    ),
    "flipped bit": (damaged(M, lambda d: d[:FLIP] + bytes((d[FLIP] ^ 1,)) + d[FLIP + 1 :]), "changed after .* SHA-256"),
    "other file": (
        damaged(C, lambda d: safetensors_save({"x": torch.zeros(9)})),
        "contexts.safetensors lacks the tensor",
    ),
    # foreign
    "a run's config": (damaged("config.json", lambda d: b'{"seed": 1}'), "is not of a jedi-env checkpoint"),
    "a list": (damaged("config.json", lambda d: b"[]"), "is not of a jedi-env checkpoint"),
    "another format": (config_with(format="gpt2"), "is not of a jedi-env checkpoint"),
    # versions
    "newer": (
        config_with(version=VERSION + 1),
        r"version 2 of the format, .* up to 1: upgrade it with `pip install -U",
    ),
    "no version": (config_with(version="1"), "the version '1', but versions are numbers from 1"),
    "version 0": (config_with(version=0), "the version 0, but versions are numbers from 1"),
    # a configuration that is none
    "unknown field": (config_with(hook="os.system"), "unknown field 'hook'"),
    "unknown kind": (model_with("encoder", kind="subprocess.Popen"), "kind is 'subprocess.Popen', but must be one of"),
    "wrong type": (config_with(num_actions="4"), "num_actions is '4', but must be a whole number"),
    "no steps": (model_with("sampler", steps=0), "model.sampler.steps is 0, but must be from 1 to 1000"),
    "a schedule that rises": (model_with("sampler", sigma_min=9.0), "sigma_min is 9.0 and sigma_max is"),
    "endless dream": (model_with("sampler", steps=10**9), "model.sampler.steps is 1000000000"),
    "absurd width": (model_with("denoiser", channels=[10**9]), "model.denoiser.channels is 1000000000"),
    "absurd depth": (model_with("denoiser", depths=[10**6]), "model.denoiser.depths is 1000000"),
    "too many levels": (model_with("denoiser", channels=[8] * 99), "the length of model.denoiser.channels is 99"),
    "levels that differ": (model_with("denoiser", depths=[1, 1]), "describes a model that cannot dream"),
    "patch that does not fit": (model_with("encoder", patch=5), "describes a model that cannot dream"),
    "too small a frame": (
        model_with("reward_end", down=[True] * 1, depths=[1] * 9),
        "describes a model that cannot dream",
    ),
    "cond does not divide": (model_with("denoiser", cond_channels=9), "cannot dream: cond_channels=9"),
    "config too large": (config_with(metrics={"x": "y" * 2**24}), "may have 16777216 at most"),
    # malicious
    "path climbs out": (other_file(M, M, "../../etc/passwd"), "'../../etc/passwd', a path that climbs out"),
    "absolute path": (other_file(M, M, "/etc/passwd"), "'/etc/passwd', a path that climbs out"),
    "backslashes": (other_file(M, M, "..\\x"), "a path that climbs out"),
    "another name": (other_file(M, M, "model.pkl"), "lists the files .*'model.pkl'.*, but must list agent.safetensors"),
    "link out": (linked_out(M), "model.safetensors is a link that climbs out of the folder"),
    "config link out": (linked_out("config.json"), "config.json is a link that climbs out of the folder"),
    "link in circles": (in_circles, "lacks model.safetensors"),
    "a pipe": (no_regular_file, "config.json is no regular file"),
    "pickle for weights": (written(M, lambda f: pickle.dumps(Bomb())), "model.safetensors is a pickle"),
    "pickle, old protocol": (
        written(M, lambda f: pickle.dumps(Bomb(), protocol=0)),
        "is no safetensors file|truncated",
    ),
    "torch.save": (written(M, torch_saved), "model.safetensors is a pickle, or an archive"),
    "pickle beside": (lambda f: (f / "x.pkl").write_bytes(pickle.dumps(Bomb())), "x.pkl is a pickle"),
    "pickled config": (damaged("config.json", lambda d: pickle.dumps(Bomb())), "config.json is a pickle"),
    "1e12 elements": (header_with(M, huge), r"'denoiser.conv_in.weight' as float32 of shape \(1000000000000,\), but"),
    "1e12 elements of the agent": (
        header_with(A, lambda h: h["policy.weight"].update(shape=[10**12])),
        "agent.safetensors declares tensors of 4000000000008 bytes, but holds 56",
    ),
    "many axes": (header_with(A, lambda h: h["count"].update(shape=[1] * 9)), "'count' of the shape .*, which is none"),
    "negative shape": (
        header_with(A, lambda h: h["count"].update(shape=[-1])),
        "'count' of the shape .*, which is none",
    ),
    "unknown type": (header_with(A, lambda h: h["count"].update(dtype="F8_E8M0")), "of the type 'F8_E8M0'"),
    "overlapping tensors": (
        header_with(A, lambda h: h["policy.weight"].update(data_offsets=[0, 48])),
        "agent.safetensors is no safetensors file",
    ),
    "endless header": (
        written(M, lambda f: (2**40).to_bytes(8, "little") + b"{" + bytes(999)),
        "no safetensors file: its header would have 1099511627776 bytes",
    ),
    "header is no JSON": (written(M, (2).to_bytes(8, "little") + b"{]"), "The header of .* is not JSON"),
    "NaN weights": (tensors_with(M, first_weight_nan), "model.safetensors holds NaN or infinity"),
    "NaN contexts": (tensors_with(C, lambda t: t["frames"].fill_(float("nan"))), "contexts.safetensors holds NaN"),
    "missing tensor": (
        tensors_with(M, lambda t: t.pop("denoiser.conv_in.weight")),
        "lacks the tensor 'denoiser.conv_in",
    ),
    "extra tensor": (tensors_with(M, lambda t: t.update(x=torch.zeros(1))), "holds the tensor 'x', which"),
    "other type": (
        tensors_with(M, lambda t: t.update({"denoiser.conv_in.bias": torch.zeros(8, dtype=torch.int64)})),
        "'denoiser.conv_in.bias' as int64",
    ),
    "actions out of range": (tensors_with(C, lambda t: t["actions"].fill_(99)), "actions that are not from 0 to 3"),
    "frames out of range": (tensors_with(C, lambda t: t["frames"].fill_(9)), "beyond the model's range"),
    "no contexts": (
        tensors_with(C, lambda t: t.update(frames=t["frames"][:0].clone(), actions=t["actions"][:0].clone())),
        "has 0 contexts",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_with_its_own_message(folder, change, message, monkeypatch):
    monkeypatch.chdir(folder.parent)
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(None, folder)
    assert not (folder.parent / "bomb").exists()
    assert folder.resolve() not in {path for path, _ in module._loaded}


def test_the_messages_are_told_apart(folder):
    """What a user must do differs, so what is said does."""
    said = {}
    names = (
        "truncated weights/flipped bit/a run's config/newer/pickle for weights/path climbs out/link out/1e12 elements"
    )
    for name in [*names.split("/"), "NaN weights", "absurd width", "unknown kind", "nothing there"]:
        copied = folder.parent / "copy"
        shutil.copytree(folder, copied)
        REFUSED[name][0](copied)
        with pytest.raises(CheckpointError) as caught:
            Checkpoint.load(copied)
        said[name] = "".join(c for c in str(caught.value) if not c.isdigit())
        shutil.rmtree(copied, ignore_errors=True)
        (folder.parent / "outside").unlink(missing_ok=True)
    assert len(set(said.values())) == len(said)


def test_a_runs_directory_is_told_where_its_checkpoint_is(folder):
    run = folder.parent / "run"
    run.mkdir()
    (run / "config.json").write_text('{"seed": 1}')
    shutil.copytree(folder, run / "checkpoint")
    with pytest.raises(CheckpointError, match=r"whose checkpoint is .*run/checkpoint"):
        Checkpoint.load(run)


def test_an_absurd_model_takes_no_memory(folder):
    model_with("denoiser", channels=[16384], cond_channels=16384)(folder)  # tens of gigabytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        CheckpointError, match=r"declares 'denoiser.* but the configuration says float32 of shape \(4, 4096\)"
    ):
        Checkpoint.load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


def test_links_inside_the_folder_are_followed(folder):
    (folder / "weights").mkdir()
    shutil.move(folder / M, folder / "weights" / M)
    (folder / M).symlink_to(f"weights/{M}")
    assert same(tiny_checkpoint(agent=True, decoder=True), Checkpoint.load(folder))


@pytest.mark.parametrize("length", [0x0280, 0x0580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, length):
    checkpoint = tiny_checkpoint(agent=True)
    checkpoint.save(tmp_path / "dream")
    written(A, padded((tmp_path / "dream" / A).read_bytes(), length))(tmp_path / "dream")
    assert (tmp_path / "dream" / A).read_bytes()[:1] == b"\x80"
    assert same(checkpoint, Checkpoint.load(tmp_path / "dream"))


# Fuzzing


def load_or_refuse(folder):
    """Load what may be loaded (and see it dream); what may not is refused in a sentence."""
    try:
        loaded = Checkpoint.load(folder)
    except CheckpointError as error:
        said = str(error)
    else:
        dreamt(loaded, steps=1)
        return loaded
    assert 10 < len(said) < 1000
    assert said.isprintable()
    return None


@pytest.fixture
def original(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("seed", range(100))
def test_damaged_bytes_are_refused(folder, original, seed):
    rng = random.Random(seed)
    name = rng.choice(FILES)
    data = mutated_bytes(original[name], rng)
    (folder / name).write_bytes(data)
    if load_or_refuse(folder) is not None:  # a changed number in config.json is not to be noticed
        assert name == "config.json" or data == original[name]


@pytest.mark.parametrize("seed", range(100))
def test_a_forged_configuration_is_refused_or_harmless(folder, seed):
    rng = random.Random(seed)
    path = folder / "config.json"
    path.write_text(json.dumps(mutated_json(json.loads(path.read_text()), rng)))
    load_or_refuse(folder)


@pytest.mark.parametrize("seed", range(100))
def test_forged_tensors_are_refused_or_harmless(folder, original, seed):
    rng = random.Random(seed)
    name = rng.choice([M, C, A, "decoder.safetensors"])
    data = original[name]
    end = 8 + int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        header = json.dumps(mutated_json(json.loads(data[8:end]), rng)).encode()
        data = len(header).to_bytes(8, "little") + header + data[end:]
    else:
        data = mutated_bytes(data[: end + 64], rng) + data[end + 64 :]
    written(name, data)(folder)
    load_or_refuse(folder)


# Versions


def test_an_older_version_is_migrated_step_by_step(folder, monkeypatch):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["universe"] = config.pop("game")  # as version 1 might have called it
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="unknown field 'universe'"):
        Checkpoint.load(folder)
    monkeypatch.setattr(module, "VERSION", 3)
    with pytest.raises(CheckpointError, match="has version 1 of the format, which is no longer read"):
        Checkpoint.load(folder)
    monkeypatch.setitem(module.MIGRATIONS, 1, lambda old: {**{k: v for k, v in old.items() if k != "universe"},
                                                           "game": old["universe"]})  # fmt: skip
    monkeypatch.setitem(module.MIGRATIONS, 2, lambda old: {**old, "horizon": old["horizon"] + 1})
    loaded = Checkpoint.load(folder)
    assert (loaded.game, loaded.horizon) == ("Breakout", 21)


# Finding


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The three homes of dreams, all empty."""
    monkeypatch.setenv("JEDI_ENV_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "__file__", str(tmp_path / "package" / "checkpoint.py"))
    return [tmp_path / "home", tmp_path / "cache" / "jedi-env", tmp_path / "package" / "pretrained"]


def test_dreams_are_looked_up_at_home_then_in_the_cache_then_in_the_package(places):
    assert homes() == places
    for seed, place in reversed(list(enumerate(places))):
        tiny_checkpoint(seed=seed, game="Pong").save(place / "Pong")
        assert locate("Pong") == place / "Pong"
        assert find_checkpoint("Pong", None).provenance["seed"] == seed


def test_a_damaged_dream_is_not_passed_over(places):
    tiny_checkpoint(game="Pong").save(places[2] / "Pong")
    (places[0] / "Pong").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"home/Pong lacks config.json"):
        find_checkpoint("Pong", None)


def test_the_cache_is_where_the_platform_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    package = Path(module.__file__).parent / "pretrained"
    for value in (None, "", "relative/is/ignored"):
        if value is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert homes() == [tmp_path / ".cache" / "jedi-env", package]
    monkeypatch.setenv("JEDI_ENV_HOME", "~/dreams")
    assert homes()[0] == tmp_path / "dreams"


def test_no_dream_says_how_to_get_one(places):
    tiny_checkpoint(game="Pong").save(places[1] / "Pong")
    shutil.copytree(places[1] / "Pong", places[1] / ".Pong.0123.trash")
    with pytest.raises(UsageError) as caught:
        find_checkpoint("Breakout", None)
    for part in ("no dream of 'Breakout'", *map(str, places), "`jedi-env train Breakout", "hub://", "dreams of: Pong."):
        assert part in str(caught.value)
    with pytest.raises(UsageError, match=r"no dream of 'Brekout'.*Did you mean 'Breakout'\?"):
        find_checkpoint("Brekout", None)
    with pytest.raises(UsageError, match=r"Which dream\? Write checkpoint="):
        find_checkpoint(None, None)


@pytest.mark.parametrize("game", ["../dream", "/etc", "..", "", "a/../../dream", "..\\dream"])
def test_a_name_cannot_climb_out_of_the_homes(folder, monkeypatch, game):
    (folder.parent / "home").mkdir()
    monkeypatch.setenv("JEDI_ENV_HOME", str(folder.parent / "home"))
    assert locate(game) is None


def test_a_dream_of_another_game_is_refused(folder):
    with pytest.raises(UsageError, match="a dream of Breakout, not of Pong: write JEDIDream-Breakout-v0"):
        find_checkpoint("Pong", folder)
    with pytest.raises(UsageError, match="a dream of Breakout, not of Pong"):
        find_checkpoint("Pong", tiny_checkpoint())
    assert find_checkpoint("ALE/Breakout-v5", folder).game == "Breakout"  # other ids are the caller's business
    assert find_checkpoint(GAMES[0], tiny_checkpoint(game=None)).game is None


def test_a_process_has_one_set_of_weights(folder, tmp_path, monkeypatch):
    first = find_checkpoint(None, folder)
    assert find_checkpoint("Breakout", str(folder), "cpu") is first
    assert find_checkpoint("Breakout", first) is first
    assert copy.deepcopy({"checkpoint": first})["checkpoint"] is first  # as Gymnasium does with a spec's arguments
    (tmp_path / "latest").symlink_to(folder)
    assert find_checkpoint(None, tmp_path / "latest") is first
    monkeypatch.chdir(folder)
    assert find_checkpoint(None, ".") is first
    assert Checkpoint.load(folder) is not first


def test_threads_share_one_set_of_weights_too(folder):
    found = []
    threads = [threading.Thread(target=lambda: found.append(find_checkpoint(None, folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1


def test_a_replaced_checkpoint_is_loaded_anew(folder):
    first = find_checkpoint(None, folder)
    new = tiny_checkpoint(seed=1)
    new.save(folder)
    second = find_checkpoint(None, folder)
    assert same(new, second)
    assert same(first, tiny_checkpoint(agent=True, decoder=True))  # whoever holds the old one keeps it
    assert find_checkpoint(None, folder) is second


def test_to_another_device_is_a_copy_and_to_its_own_is_itself():
    checkpoint = tiny_checkpoint(agent=True, decoder=True)
    checkpoint.world_model.train().requires_grad_(True)
    assert checkpoint.to("cpu") is checkpoint
    moved = checkpoint.to("meta")  # the one other device that every machine has
    for part in (moved.world_model, moved.world_model.decoder):
        assert all(tensor.is_meta for tensor in part.state_dict().values())
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert not part.training
    assert moved.contexts.frames.is_meta
    assert moved.agent.tensors["policy.weight"].is_meta
    for part in (checkpoint.world_model, checkpoint.world_model.decoder):
        assert not any(tensor.is_meta for tensor in part.state_dict().values())
    assert all(parameter.requires_grad for parameter in checkpoint.world_model.parameters())


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 1.5])
def test_a_device_that_is_not_there_is_refused(folder, device):
    with pytest.raises(UsageError, match=f"The device '{device}' cannot be used here"):
        find_checkpoint(None, folder, device)


@pytest.mark.parametrize("thing", ["", 3, b"bytes", object()])
def test_what_is_no_checkpoint_at_all_is_refused(thing):
    with pytest.raises(UsageError, match="A checkpoint is a folder, hub://owner/repo or a Checkpoint, not"):
        find_checkpoint("Breakout", thing)


def test_it_introduces_itself_in_a_line():
    parameters = sum(parameter.numel() for parameter in tiny_model().parameters())
    assert repr(tiny_checkpoint()) == f"<Checkpoint of 'Breakout': {parameters:,} parameters, 5 contexts>"
