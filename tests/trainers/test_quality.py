"""The quality gate, microscopic: both ways of learning are scored on real games, and the bars decide."""

import json
from dataclasses import replace

import pytest

import trainers.quality
from jedi_env.errors import UsageError
from tests.trainers.fakes import MICRO
from trainers.config import EvaluateConfig
from trainers.quality import NATIVE_BAR, PPO_BAR, QualityConfig, main, passes, quality

STEPS = 64 * 32  # one rollout
TRAINING = replace(
    MICRO,
    world_model=replace(MICRO.world_model, context_length=4),
    collect=replace(MICRO.collect, total_steps=80, first_steps=60, first_steps_limit=60, first_rewards=0, steps=20),
    evaluate=EvaluateConfig(every=1, episodes=3, final_episodes=4),
    final_epochs=0,
)


def test_every_seed_is_trained_scored_and_written(tmp_path):
    config = QualityConfig(out=tmp_path / "gate", seeds=2, steps=STEPS, horizon=5)
    summary = quality(config, TRAINING)
    assert json.loads((config.out / "quality.json").read_text()) == json.loads(json.dumps(summary))
    assert [result["seed"] for result in summary["seeds"]] == [0, 1]
    for result in summary["seeds"]:
        assert result["native"]["episodes"] == 4
        assert result["native"]["real_steps"] == 80
        assert [steps for steps, _, _ in result["native_curve"]] == [60, 80]
        assert result["ppo"]["episodes"] == trainers.quality.EPISODES
        assert 0 <= result["ppo"]["mean"] <= 20
    assert summary["passed"] is False  # nothing is learned from eighty steps


@pytest.mark.parametrize(
    ("native", "ppo", "passed"),
    [(NATIVE_BAR, PPO_BAR, True), (NATIVE_BAR - 0.1, 20.0, False), (20.0, PPO_BAR - 0.1, False)],
)
def test_a_seed_must_reach_both_bars(native, ppo, passed):
    assert passes({"native": {"mean": native}, "ppo": {"mean": ppo}}) is passed


def test_a_failed_gate_exits_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainers.quality, "CATCH", TRAINING)
    monkeypatch.setattr(
        "sys.argv",
        ["quality", "--out", str(tmp_path / "gate"), "--seeds", "1", "--steps", str(STEPS), "--horizon", "5"],
    )
    assert main() == 1
    assert "BELOW" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["seeds", "steps", "horizon"])
def test_nothing_can_be_asked_for_less_than_once(name):
    with pytest.raises(UsageError, match=f"{name} is 0"):
        QualityConfig(**{name: 0})
