"""The log: whole lines, cut back when resuming, the same numbers in TensorBoard."""

import json
from contextlib import closing

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from jedi_env.errors import RunError
from trainers.log import Log, averages, progress, read


@pytest.fixture
def open_log(tmp_path):
    opened = []

    def open_it(size=0):
        opened.append(Log(tmp_path, size))
        return opened[-1]

    yield open_it
    for log in opened:
        log.close()


def test_what_is_written_is_read(tmp_path, open_log):
    log = open_log()
    log.write("collect", 0, {"real_steps": 12.0, "games": 1.5})
    log.write("fit_models", 0, {"loss": 0.1})
    assert read(tmp_path) == [
        {"epoch": 0, "phase": "collect", "real_steps": 12.0, "games": 1.5},
        {"epoch": 0, "phase": "fit_models", "loss": 0.1},
    ]
    assert log.sync() == (tmp_path / "metrics.jsonl").stat().st_size


def test_resuming_cuts_off_what_came_after(tmp_path, open_log):
    log = open_log()
    log.write("collect", 0, {"a": 1.0})
    size, kept = log.sync(), (tmp_path / "metrics.jsonl").read_bytes()
    log.write("collect", 1, {"a": 2.0})
    log.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 2, "ph')  # a crash, in the middle of a line
    log = open_log(size)
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept
    log.write("collect", 1, {"a": 3.0})
    assert [(line["epoch"], line["a"]) for line in read(tmp_path)] == [(0, 1.0), (1, 3.0)]


def test_a_file_shorter_than_recorded_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl"):
        Log(tmp_path, 4)
    assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"


def test_nothing_logged_is_nothing_read(tmp_path):
    assert read(tmp_path) == []


def test_tensorboard_has_the_same_numbers(tmp_path, open_log):
    log = open_log()
    log.write("imagine", 3, {"entropy": 0.5, "value": -2.0})
    log.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = [event for event in EventFileLoader(str(path)).Load() if event.summary.value]
    found = {(event.step, value.tag): value.tensor.float_val[0] for event in events for value in event.summary.value}
    assert found == {(3, "imagine/entropy"): 0.5, (3, "imagine/value"): -2.0}


def test_tensorboard_sees_no_lost_epoch_whatever_the_clock_says(tmp_path, monkeypatch):
    """Judged by TensorBoard's own reader."""
    now = iter(range(10**9, 0, -1000))  # backwards
    monkeypatch.setattr("trainers.log.time.time", lambda: float(next(now)))
    size = 0
    for session, epochs in enumerate([(0,), (0, 1, 2), (2, 3)]):
        with closing(Log(tmp_path, size)) as log:
            for epoch in epochs:
                size = log.sync()
                log.write("imagine", epoch, {"value": 10.0 * session + epoch})
    found = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    shown = [(event.step, event.tensor_proto.float_val[0]) for event in found.Tensors("imagine/value")]
    assert shown == [(0, 10.0), (1, 11.0), (2, 22.0), (3, 23.0)]
    assert shown == [(line["epoch"], line["value"]) for line in read(tmp_path)]


def test_a_number_that_is_not_finite_is_told_and_not_written(tmp_path, open_log):
    log = open_log()
    with pytest.raises(RunError, match=r"epoch 3 is not finite.*nan.*The run diverged"):
        log.write("fit_models", 2, {"loss": float("nan")})
    assert read(tmp_path) == []


@pytest.mark.parametrize("line", [b"{", b"[]", b"{}", b'{"epoch": true, "phase": "x"}', b"\xff", b'{"epoch": NaN}'])
def test_a_damaged_line_is_told_by_its_number(tmp_path, line):
    good = b'{"epoch": 0, "phase": "collect"}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + line + b"\n" + good)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"Line 2 of .*metrics\.jsonl"):
        read(tmp_path)
    with pytest.raises(RunError, match=r"Line 2 of .*metrics\.jsonl"):
        Log(tmp_path, len(before))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_averages_are_over_the_steps_that_have_the_metric():
    steps = [{"a": torch.tensor(float(i)), **({"b": torch.tensor(i)} if i % 2 else {})} for i in range(4)]
    assert averages(steps) == {"a": 1.5, "b": 2.0}
    assert averages([]) == {}


def test_averages_are_plain_numbers_that_json_takes():
    assert json.loads(json.dumps(averages([{"a": torch.tensor(0.25)}]))) == {"a": 0.25}


def test_a_progress_bar_passes_its_steps_on_and_counts_them(capsys):
    assert list(progress(range(3), 3, "counting")) == [0, 1, 2]
    with progress(None, 2, "by hand") as bar:
        bar.update()
        bar.update()
    shown = capsys.readouterr().err
    assert "counting: 100%" in shown
    assert "3/3" in shown
    assert "by hand: 100%" in shown
    assert "2/2" in shown
