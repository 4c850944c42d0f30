"""What may become of a checkpoint's folder, by accident or by malice: one change to it a function."""

import hashlib
import json
import os
import shutil

import torch
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save

M, C, A = "model.safetensors", "contexts.safetensors", "agent.safetensors"


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
