"""What "auto" means for device, precision and compilation, and errors for what is not there."""

import logging
import shutil
import sys

import pytest
import torch

from jedi_env import device
from jedi_env.device import resolve_compile, resolve_device, resolve_dtype, say_once
from jedi_env.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class TestDevice:
    @pytest.mark.parametrize("name", ["cpu", CPU])
    def test_a_named_one(self, name):
        assert resolve_device(name) == CPU

    @pytest.mark.parametrize(
        ("cuda", "mps", "wanted"),
        [(True, True, torch.device("cuda", 3)), (False, True, torch.device("mps")), (False, False, CPU)],
    )
    def test_auto_is_the_fastest_there_is(self, monkeypatch, cuda, mps, wanted):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        assert resolve_device("auto") == wanted

    @pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x", "", ["cpu"], torch.device("cuda:99")])
    def test_what_is_not_there_is_refused(self, name):
        with pytest.raises(UsageError, match=r"is not there .*Write device='auto' for the fastest there is, or 'cpu'"):
            resolve_device(name)

    @pytest.mark.gpu
    def test_a_device_has_its_index_as_tensors_have(self):
        assert resolve_device("cuda") == torch.empty(0, device="cuda").device == resolve_device("auto")


class TestDtype:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_by_name_or_as_torch_has_it(self, dtype):
        assert resolve_dtype(str(dtype).removeprefix("torch."), CPU) is dtype
        assert resolve_dtype(dtype, CPU) is dtype

    @pytest.mark.parametrize("native", [True, False])
    def test_auto_is_bfloat16_where_the_device_computes_in_it(self, monkeypatch, native):
        wanted = torch.bfloat16 if native else torch.float32
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
        assert resolve_dtype("auto", CUDA) is wanted
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: native)
        assert resolve_dtype("auto", CPU) is wanted
        assert resolve_dtype("auto", torch.device("mps")) is torch.float32

    @pytest.mark.parametrize("dtype", ["float64", torch.int64, torch.float64, 16, None])
    def test_others_are_refused(self, dtype):
        with pytest.raises(UsageError, match=r"dtype is .*Write 'auto', 'float32', 'bfloat16' or 'float16'"):
            resolve_dtype(dtype, CPU)

    def test_a_slip_is_guessed(self):
        with pytest.raises(UsageError, match="Did you mean 'bfloat16'"):
            resolve_dtype("bfloat-16", CPU)


class TestCompile:
    @pytest.fixture(autouse=True)
    def _a_machine_with(self, monkeypatch):
        """Whatever is here, pretend that these are."""
        self.there = {"triton", "gcc", "g++"}
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setattr(shutil, "which", lambda name: name if name in self.there else None)
        monkeypatch.setattr(device, "find_spec", lambda name: name if name in self.there else None)

    @pytest.mark.parametrize("on", [CPU, CUDA])
    def test_auto_is_on_cuda_only(self, on):
        assert resolve_compile("auto", on) is (on is CUDA)
        assert resolve_compile(True, on) is True
        assert resolve_compile(False, on) is False

    @pytest.mark.parametrize(
        ("on", "there", "missing"),
        [
            (CUDA, {"gcc", "g++"}, r"cuda:0 needs triton,"),
            (CUDA, {"triton", "g++"}, r"cuda:0 needs a C compiler \(gcc\),"),
            (CPU, {"triton", "gcc"}, r"cpu needs a C\+\+ compiler \(g\+\+\),"),
        ],
    )
    def test_without_a_compiler_auto_does_not_and_true_cannot(self, on, there, missing):
        self.there = there
        assert resolve_compile("auto", on) is False
        assert resolve_compile(False, on) is False
        with pytest.raises(UsageError, match=missing + r".* write compile='auto' or False"):
            resolve_compile(True, on)

    def test_a_compiler_may_be_named_as_torch_and_triton_read_it(self, monkeypatch):
        self.there = {"triton", "c++-14"}
        monkeypatch.setenv("CC", "cc")
        monkeypatch.setenv("CXX", "c++-14")
        assert resolve_compile("auto", CUDA)
        assert resolve_compile(True, CPU)
        monkeypatch.setenv("CXX", "g++")
        with pytest.raises(UsageError, match=r"a C\+\+ compiler \(g\+\+\)"):
            resolve_compile(True, CPU)

    @pytest.mark.parametrize(
        ("platform", "on", "there"),
        [
            ("win32", CUDA, {"triton"}),
            ("win32", CPU, {"cl"}),
            ("darwin", CPU, {"clang++"}),
            ("linux", CUDA, {"clang", "triton"}),
        ],
    )
    def test_other_platforms_have_other_compilers(self, monkeypatch, platform, on, there):
        monkeypatch.setattr(sys, "platform", platform)
        self.there = there
        assert resolve_compile(True, on)
        self.there = set()
        with pytest.raises(UsageError, match="needs"):
            resolve_compile(True, on)

    @pytest.mark.parametrize("compile", ["yes", 1, None])
    def test_others_are_refused(self, compile):
        with pytest.raises(UsageError, match=r"compile is .* Write True, False or 'auto'"):
            resolve_compile(compile, CPU)


def test_it_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(device, "_said", set())
    with caplog.at_level(logging.WARNING, logger="jedi_env.device"):
        for message in ("one", "one", "two", "one"):
            say_once(message)
    assert [record.getMessage() for record in caplog.records] == ["one", "two"]
