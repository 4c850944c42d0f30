"""A checkpoint is never trusted: what is missing, damaged, foreign or malicious is refused, each in its own words."""

import pickle
import resource
import shutil

import pytest
import torch
from safetensors.torch import save as safetensors_save

from jedi_env import find as module
from jedi_env.checkpoint import Checkpoint
from jedi_env.checkpoint_config import VERSION
from jedi_env.errors import CheckpointError
from jedi_env.find import find_checkpoint
from tests.damage import (
    A,
    Bomb,
    C,
    M,
    config_with,
    damaged,
    first_weight_nan,
    header_with,
    huge,
    in_circles,
    linked_out,
    model_with,
    no_regular_file,
    other_file,
    padded,
    tensors_with,
    torch_saved,
    written,
)
from tests.tiny_dream import same, tiny_checkpoint

FLIP = -100  # a byte well inside the weights
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
    "no frame to read": (model_with("reward_end", frame_stack=0), "frame_stack is 0, but a dream remembers"),
    "absurd stack": (model_with("reward_end", frame_stack=10**9), "frame_stack is 1000000000, but a dream"),
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
