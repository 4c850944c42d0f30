"""The replay against a slow one that is a list of episodes."""

from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jedi_env.errors import RunError
from trainers.replay import Replay, Sampling

ALIKE = Sampling(age_weights=())


@dataclass(frozen=True)
class Step:
    action: int
    reward: float
    terminated: bool


STEP = st.builds(Step, st.integers(0, 17), st.sampled_from([0.0, 0.0, 1.0, -2.5]), st.booleans())


@st.composite
def logs(draw, max_episodes=4, max_steps=4):
    """Episodes of at least one step, of which only an end terminates, and whether the last one is still under way."""
    episodes = draw(st.lists(st.lists(STEP, min_size=1, max_size=max_steps), min_size=1, max_size=max_episodes))
    episodes = [
        [Step(step.action, step.reward, step.terminated and step is episode[-1]) for step in episode]
        for episode in episodes
    ]
    return episodes, draw(st.booleans())


def picture(row):
    """The pixels of a row of the log, with its number in them."""
    pixels = np.full((64, 64, 3), row % 251, np.uint8)
    pixels[3, 5] = row // 256, row % 256, 7
    return pixels


def number(pixels):
    """Which row is drawn in ``pixels`` (..., 64, 64, 3)."""
    return pixels[..., 3, 5, 0].long() * 256 + pixels[..., 3, 5, 1].long()


def write(replay, episodes, under_way=False):
    """Log the episodes; return the rows of each, as lists of (row, step or None)."""
    rows, written = 0, []
    for index, episode in enumerate(episodes):
        written.append([])
        for step in episode:
            replay.append(picture(rows), step.action, step.reward, step.terminated)
            written[-1].append((rows, step))
            rows += 1
        if not (under_way and index == len(episodes) - 1):
            replay.end_episode(picture(rows))
            written[-1].append((rows, None))
            rows += 1
    return written


def complete(episode):
    """The places in an episode whose transition led to a row that is there."""
    return range(len(episode) - 1)


def slow_segment(episode, start, length):
    """What a segment that begins at place ``start`` of an episode must hold: rows, actions, rewards, ends, mask."""
    last = len(episode) - 1
    rows = [episode[min(max(place, 0), last)][0] for place in range(start, start + length + 1)]
    steps = [episode[place][1] if 0 <= place < last else None for place in range(start, start + length)]
    return (
        tuple(rows),
        tuple(step.action if step else 0 for step in steps),
        tuple(step.reward if step else 0.0 for step in steps),
        tuple(step.terminated if step else False for step in steps),
        tuple(step is not None for step in steps),
    )


def listed(segment):
    """The lanes of a drawn segment in the form of :func:`slow_segment`."""
    rows = number(segment.pixels)
    fields = (rows, segment.actions, segment.rewards, segment.terminated, segment.mask)
    return [tuple(tuple(field[lane].tolist()) for field in fields) for lane in range(len(segment))]


@pytest.fixture
def replay(tmp_path):
    replay = Replay(tmp_path / "replay")
    yield replay
    replay.close()


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("replays")


@given(log=logs(), length=st.integers(1, 3), seed=st.integers(0, 100))
@settings(max_examples=25)
def test_segments_are_exactly_those_of_a_list_of_episodes(scratch, log, length, seed):
    with closing(Replay(scratch / "segments", keep=0)) as replay:
        written = write(replay, *log)
        possible = {
            slow_segment(episode, place - back, length)
            for episode in written
            for place in complete(episode)
            for back in range(length)
        }
        if not possible:
            with pytest.raises(RunError, match="no complete transition"):
                replay.segments(1, length, ALIKE, np.random.default_rng(seed))
            return
        segment = replay.segments(500, length, ALIKE, np.random.default_rng(seed))
        assert set(listed(segment)) == possible
        assert segment.mask.any(dim=1).all()
        lane = segment.pixels[0]
        assert np.array_equal(lane, np.stack([picture(row) for row in number(lane).tolist()]))


@given(log=logs(), length=st.integers(1, 4), seed=st.integers(0, 100))
@settings(max_examples=25)
def test_contexts_are_the_last_frames_before_a_choice(scratch, log, length, seed):
    with closing(Replay(scratch / "contexts", keep=0)) as replay:
        written = write(replay, *log)
        possible = set()
        for episode in written:
            for newest in complete(episode):
                places = range(newest - length + 1, newest + 1)
                rows = tuple(episode[max(place, 0)][0] for place in places)
                actions = tuple(episode[place][1].action if place >= 0 else 0 for place in list(places)[:-1])
                possible.add((rows, actions))
        if possible:
            pixels, actions = replay.contexts(400, length, ALIKE, np.random.default_rng(seed))
            assert (pixels.dtype, actions.dtype) == (torch.uint8, torch.int64)
            drawn = {(tuple(p), tuple(a)) for p, a in zip(number(pixels).tolist(), actions.tolist(), strict=True)}
            assert drawn == possible


@given(log=logs())
@settings(max_examples=25)
def test_it_counts_rows_and_steps(scratch, log):
    with closing(Replay(scratch / "counts", keep=0)) as replay:
        episodes, under_way = log
        write(replay, episodes, under_way)
        steps = sum(len(episode) for episode in episodes)
        ended = len(episodes) - under_way
        assert (replay.num_steps, replay.length) == (steps, steps + ended)
        assert (len(replay.steps), len(replay.pixels)) == (replay.length, replay.length)


def test_dtypes_and_shapes_of_a_segment(replay):
    write(replay, [[Step(3, -2.5, False), Step(1, 0.0, True)]])
    segment = replay.segments(5, 4, ALIKE, np.random.default_rng(0))
    assert (segment.pixels.shape, segment.pixels.dtype) == ((5, 5, 64, 64, 3), torch.uint8)
    assert [(t.shape, t.dtype) for t in (segment.actions, segment.rewards, segment.terminated, segment.mask)] == [
        ((5, 4), torch.int64),
        ((5, 4), torch.float32),
        ((5, 4), torch.bool),
        ((5, 4), torch.bool),
    ]


def test_the_same_generator_draws_the_same(replay):
    write(replay, [[Step(i % 3, float(i == 4), False) for i in range(9)] for _ in range(5)])
    sampling = Sampling((0.3, 0.7), 0.5)
    first, second, other = (replay.segments(20, 3, sampling, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.pixels, second.pixels)
    assert not torch.equal(first.pixels, other.pixels)


EIGHT = [[Step(episode, 0.0, True)] * steps for episode, steps in enumerate((1, 3, 2, 1, 2, 1, 3, 1, 2))]  # and one


def drawn_episodes(replay, weights, batch=3000):
    segment = replay.segments(batch, 1, Sampling(weights), np.random.default_rng(0))
    return segment.actions[:, 0]


@pytest.mark.parametrize(
    ("weights", "episodes"),
    [((1, 0, 0, 0), {0, 1}), ((0, 0, 1, 0), {4, 5}), ((0, 0, 0, 1), {6, 7, 8}), ((0, 1, 1), {3, 4, 5, 6, 7, 8})],
)
def test_age_weights_choose_parts_of_equally_many_episodes_oldest_first(replay, weights, episodes):
    write(replay, EIGHT)
    assert set(drawn_episodes(replay, weights, 300).tolist()) == episodes


def test_a_part_is_drawn_with_its_weight_and_its_episodes_alike(replay):
    write(replay, EIGHT)
    drawn = drawn_episodes(replay, (1.0, 1.0, 1.0, 7.0))
    parts = [((drawn >= low) & (drawn < high)).float().mean().item() for low, high in ((0, 2), (2, 4), (4, 6), (6, 9))]
    assert parts == pytest.approx([0.1, 0.1, 0.1, 0.7], abs=0.03)
    of_the_last = [(drawn == episode).float().mean().item() / parts[3] for episode in (6, 7, 8)]
    assert of_the_last == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.04)


def test_fewer_episodes_than_parts_are_drawn_alike(replay):
    write(replay, EIGHT[:3])
    drawn = drawn_episodes(replay, (0, 0, 0, 1))
    shares = [(drawn == episode).float().mean().item() for episode in range(3)]
    assert shares == pytest.approx([1 / 6, 3 / 6, 2 / 6], abs=0.04)


def test_an_episode_under_way_is_of_the_newest_part(replay):
    write(replay, [*EIGHT[:4], [Step(9, 0.0, False)] * 3], under_way=True)
    assert set(drawn_episodes(replay, (0, 0, 0, 1), 200).tolist()) == {3, 9}


def test_the_share_of_segments_around_an_event(replay):
    quiet = [Step(0, 0.0, False)] * 97
    write(replay, [[*quiet, Step(1, -4.0, False), Step(0, 0.0, False)], [*quiet, Step(2, 0.0, True)], quiet])
    rng = np.random.default_rng(0)
    always = replay.segments(200, 1, Sampling((), 1.0), rng).actions[:, 0]
    assert set(always.tolist()) == {1, 2}
    assert (always == 1).float().mean().item() == pytest.approx(0.5, abs=0.1)
    sometimes = replay.segments(600, 1, Sampling((), 0.4), rng).actions[:, 0]
    assert (sometimes > 0).float().mean().item() == pytest.approx(0.4 + 0.6 * 2 / 294, abs=0.06)
    wide = replay.segments(50, 5, Sampling((), 1.0), rng)
    assert ((wide.rewards != 0) | wide.terminated).any(dim=1).all()
    seen, _ = replay.contexts(300, 1, Sampling((), 1.0), rng)  # contexts are drawn by age alone
    assert len(set(number(seen).flatten().tolist())) > 100


def test_events_are_drawn_from_all_that_is_there_whatever_its_age(replay):
    write(replay, [[Step(1, 1.0, False)], [Step(2, 0.0, False)], [Step(3, 0.0, False)], [Step(4, 0.0, False)]])
    drawn = replay.segments(100, 1, Sampling((0, 0, 0, 1), 1.0), np.random.default_rng(0)).actions
    assert set(drawn.flatten().tolist()) == {1}


def test_a_log_without_events_ignores_the_event_fraction(replay):
    write(replay, [[Step(1, 0.0, False)] * 3])
    assert set(replay.segments(9, 1, Sampling((), 1.0), np.random.default_rng(0)).actions.flatten().tolist()) == {1}


def test_appending_while_reading(replay):
    rng = np.random.default_rng(0)
    with pytest.raises(RunError, match="no complete transition"):
        replay.segments(1, 1, ALIKE, rng)
    for row in range(4):
        replay.append(picture(row), row, 0.0, False)
        if row == 0:  # nobody knows yet where that led
            with pytest.raises(RunError, match="no complete transition"):
                replay.contexts(1, 1, ALIKE, rng)
        else:
            drawn = replay.segments(60, 1, ALIKE, rng)
            assert set(drawn.actions.flatten().tolist()) == set(range(row))
            assert torch.equal(number(drawn.pixels)[:, 1], drawn.actions[:, 0] + 1)
    replay.end_episode(picture(4))
    assert set(replay.segments(60, 1, ALIKE, rng).actions.flatten().tolist()) == set(range(4))


def files(folder):
    return [(folder / name).read_bytes() for name in ("pixels.bin", "steps.bin")]


@given(log=logs(), keep=st.floats(0, 1), litter=st.tuples(st.integers(0, 13000), st.integers(0, 30)))
@settings(max_examples=20)
def test_reopening_cuts_off_what_a_crash_left(scratch, log, keep, litter):
    folder = scratch / "reopened"
    with closing(Replay(folder, keep=0)) as replay:
        write(replay, *log)
        length = round(keep * replay.length)
        pixels, steps = replay.pixels[:length].copy(), replay.steps[:length].copy()
    for name, size in zip(("pixels.bin", "steps.bin"), litter, strict=True):
        with (folder / name).open("ab") as file:
            file.write(b"\xff" * size)

    with closing(Replay(folder, length)) as again:
        assert np.array_equal(again.pixels, pixels)
        assert np.array_equal(again.steps, steps)
        assert (again.length, again.num_steps) == (length, length - int(steps["last"].sum()))
        again.append(picture(length), 5, 1.0, False)  # and it goes on right there
        assert (again.steps["action"][-1], number(torch.from_numpy(again.pixels[-1].copy()))) == (5, length)
    assert [len(content) for content in files(folder)] == [(length + 1) * 64 * 64 * 3, (length + 1) * 10]


@pytest.mark.parametrize("damaged", ["pixels.bin", "steps.bin"])
def test_a_file_shorter_than_recorded_is_refused_and_nothing_is_cut_off(tmp_path, damaged):
    with closing(Replay(tmp_path)) as replay:
        write(replay, [[Step(1, 1.0, False)] * 5])
    with (tmp_path / damaged).open("r+b") as file:
        file.truncate(35)
    before = files(tmp_path)
    with pytest.raises(RunError, match=damaged):
        Replay(tmp_path, 4)
    assert files(tmp_path) == before


def test_a_log_that_is_there_is_not_lost_unasked(tmp_path):
    with closing(Replay(tmp_path)) as replay:
        write(replay, [[Step(1, 1.0, False)] * 4])
    before, rows = files(tmp_path), replay.length
    with pytest.raises(RunError, match=f"already holds a log of {rows} rows.*keep={rows}.*FollowedReplay"):
        Replay(tmp_path)
    assert files(tmp_path) == before
    with closing(Replay(tmp_path, keep=rows)) as again:
        assert again.num_steps == 4
    steps = (tmp_path / "steps.bin").read_bytes()
    (tmp_path / "steps.bin").unlink()
    with pytest.raises(RunError, match="already holds a log"):
        Replay(tmp_path)
    assert (tmp_path / "pixels.bin").read_bytes() == before[0]
    (tmp_path / "steps.bin").write_bytes(steps)
    with closing(Replay(tmp_path, keep=0)) as emptied:
        assert emptied.length == 0


def test_what_was_logged_is_in_the_files_after_a_flush(tmp_path):
    with closing(Replay(tmp_path)) as replay:
        write(replay, [[Step(1, 1.0, True)] * 2])
        replay.flush()
        with closing(Replay(tmp_path, 3)) as other:
            assert np.array_equal(other.pixels, replay.pixels)
