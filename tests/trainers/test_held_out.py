"""Held-out play: episodes, segments and starts around events, against their slow definitions."""

from dataclasses import replace

import numpy as np
import pytest

from jedi_env.errors import CheckpointError
from tests.tiny_dream import tiny_checkpoint
from tests.trainers.fakes import ACTIONS, TOY, ToyGame
from trainers.held_out import BLOCK, event_starts, play_games
from trainers.policy import RandomPolicy
from trainers.rules import Rules


def toy(steps=150, life_loss=True, seed=(0,)):
    return play_games(TOY, RandomPolicy(ACTIONS, np.random.default_rng(0)), steps, seed, Rules(life_loss=life_loss))


@pytest.fixture(scope="module")
def play():
    return toy()


def test_it_is_what_the_game_does(play):
    """Played again from the same first observation by the game's own rules, wind taken from what was seen."""
    assert len(play.transitions) == 150
    for row in play.transitions:
        before, after = play.pixels[row, 0, 0].astype(int), play.pixels[row + 1, 0, 0].astype(int)
        assert after[2] == before[2] + 1
        landed = [(before[0] + play.actions[row] - 1 + wind) % ToyGame.PLACES for wind in (0, 1)]
        landed = [place + (place == ToyGame.HURTS) for place in landed]
        assert after[0] in landed
        assert play.rewards[row] == (5.0 if after[0] == ToyGame.PAYS else 0.0)
        assert play.ended[row] == (after[1] < before[1])
        assert play.games[row] == play.games[row + 1]


def test_an_episode_is_a_life_or_a_game(play):
    for life_loss, one in ((True, play), (False, toy(life_loss=False))):
        for row in one.transitions:
            first = row
            while first > 0 and one.games[first - 1] == one.games[row] and not one.ended[first - 1]:
                first -= 1
            last = row + 1
            while not one.ended[last - 1] and last + 1 < len(one.games) and one.games[last + 1] == one.games[row]:
                last += 1
            assert (one.first[row], one.last[row]) == (first, last)
        lives = one.pixels[:, 0, 0, 1].astype(int)
        assert (one.ended.sum() > (lives == 0).sum()) == life_loss
    last_rows = np.flatnonzero(np.diff(play.games, append=-1))
    assert not set(play.transitions) & set(last_rows)


def test_segments_by_their_slow_definition(play):
    starts = play.transitions[::7]
    segment, rows = play.segments(starts, context=4, horizon=9)
    for lane, start in enumerate(starts):
        first, last = play.first[start], play.last[start]
        for place, row in enumerate(range(start - 3, start + 10)):
            inside = min(max(row, first), last)
            assert np.array_equal(segment.pixels[lane, place].numpy(), play.pixels[inside])
            if place >= 3:
                assert rows[lane, place - 3] == inside
            if place < 12:
                happened = first <= row < last
                assert segment.mask[lane, place] == happened
                assert segment.actions[lane, place] == (play.actions[row] if happened else 0)
                assert segment.rewards[lane, place] == (play.rewards[row] if happened else 0)
                assert segment.terminated[lane, place] == (play.ended[row] if happened else False)
    assert segment.mask[:, 3].all()
    assert not segment.mask.all()


def test_events_come_at_the_steps_that_were_asked_for(play):
    steps = (1, 2, 5)
    starts = event_starts(play, 60, steps, np.random.default_rng(0))
    assert len(starts) == 60
    kinds = []
    for turn, start in enumerate(starts):
        row = start + steps[turn % 3] - 1
        assert play.first[start] <= start <= row < play.last[start]
        assert play.rewards[row] > 0 or play.ended[row]
        kinds.append(bool(play.ended[row]))
    assert 20 <= sum(kinds) <= 40  # the kinds take turns
    ends = [start + steps[turn % 3] - 1 for turn, start in enumerate(starts) if kinds[turn] and turn % 3 == 0]
    assert len(set(ends)) == min(len(ends), int(play.ended.sum()))  # none comes twice before all have come once
    quiet = replace(play, rewards=play.rewards * 0, ended=play.ended & False)
    assert len(event_starts(quiet, 10, steps, np.random.default_rng(0))) == 0


def test_the_seed_and_the_stream_decide_everything(play):
    again, other = toy(), toy(seed=(1,))
    assert np.array_equal(play.pixels, again.pixels)
    assert not np.array_equal(play.pixels[:40], other.pixels[:40])


def test_blocks_never_span_games():
    play = toy(steps=90)
    for block in np.unique(play.blocks):
        rows = np.flatnonzero(play.blocks == block)
        assert len(np.unique(play.games[rows])) == 1
        assert len(rows) <= BLOCK


def test_the_rules_are_the_checkpoints():
    def rules(**protocol):
        return Rules.of(replace(tiny_checkpoint(), protocol=protocol))

    assert rules() == Rules(False, 0.0, 4)
    assert rules(life_loss=True, sticky=0.25, frame_skip=3, size=64) == Rules(True, 0.25, 3)
    assert rules(frame_skip=[2, 5]).frame_skip == (2, 5)
    for wrong in ({"sticky": "yes"}, {"frame_skip": [1, 2, 3]}):
        with pytest.raises(CheckpointError, match="not understood"):
            rules(**wrong)
