"""Videos: written, read back with another reader, or not there at all."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from jedi_env.errors import UsageError
from trainers.video import GAP, Panel, Video, beside, captioned


def plain(value, lines=("a name", "and more"), size=(64, 96)):
    return Panel(np.full((*size, 3), value, np.uint8), lines)


def read(path):
    """Frames (n, h, w, 3) and pictures a second."""
    if path.suffix == ".gif":
        with Image.open(path) as file:
            frames = []
            for i in range(file.n_frames):
                file.seek(i)
                frames.append(np.asarray(file.convert("RGB")))
            return np.stack(frames), Fraction(1000, file.info["duration"])
    with av.open(path) as file:
        stream = file.streams.video[0]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]), stream.average_rate


@pytest.mark.parametrize(
    ("name", "fps", "rate"), [("a.mp4", 15, 15), ("a.gif", 15, Fraction(100, 7)), ("A.GIF", 50, 50)]
)
def test_what_was_shown_is_in_the_file(tmp_path, name, fps, rate):
    path = tmp_path / "new" / "folder" / name
    values = [0, 100, 200, 50, 250, 100, 0]
    with Video(path, fps) as video:
        for value in values:
            video.show([plain(value), plain(255 - value)])
    frames, speed = read(path.rename(path.with_suffix(path.suffix.lower())))
    assert speed == rate
    assert frames.shape == (len(values), 64 + 4 + 28 + 4, 96 + GAP + 96, 3)
    inside = frames[:, 8:56]
    np.testing.assert_allclose(inside[:, :, 8:88].mean(axis=(1, 2, 3)), values, atol=4)  # both ways to code lose a bit
    np.testing.assert_allclose(inside[:, :, 112:192].mean(axis=(1, 2, 3)), 255 - np.array(values), atol=4)
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_video_that_was_not_finished_leaves_what_was_there(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"precious")

    def half():
        with Video(path, 15) as video:
            video.show([plain(0)])
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {name: b"precious"}
    with Video(path, 15) as video:
        video.show([plain(0)])
    assert len(read(path)[0]) == 1
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.avi", "a", "a.mp3", "mp4"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"Write \.mp4 or \.gif"):
        Video(tmp_path / name, 15)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["imageio.v3", "av"])
def test_what_is_missing_is_asked_for(monkeypatch, tmp_path, missing):
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(UsageError, match=r"pip install 'jedi-env\[video\]'"):
        Video(tmp_path / "a.mp4", 15)


def test_words_stand_under_the_picture_that_they_are_about():
    picture = captioned([plain(9, ("",)), plain(10, ("one", "two"))])
    height = 64
    assert (picture[:height, :96] == 9).all()
    assert (picture[:height, 96 : 96 + GAP] == 0).all()
    assert (picture[:height, 96 + GAP :] == 10).all()
    assert (picture[height:, :96] == 0).all()
    first, second = picture[height + 4 : height + 18, 96 + GAP :], picture[height + 18 : height + 32, 96 + GAP :]
    assert first.max() > 240  # a name is white, the rest is grey
    assert 100 < second.max() < 200


@pytest.mark.parametrize("size", [(63, 95), (64, 95), (63, 96)])
def test_height_and_width_are_even_as_the_codec_wants_them(size, tmp_path):
    shape = captioned([plain(0, size=size)]).shape
    assert (shape[0] % 2, shape[1] % 2) == (0, 0)
    with Video(tmp_path / "a.mp4", 15) as video:
        video.show([plain(0, size=size)])
    assert read(tmp_path / "a.mp4")[0].shape[1:] == shape


def test_one_picture_beside_none_is_itself():
    picture = plain(3).picture
    assert (beside([picture]) == picture).all()
    assert beside([picture]).shape == picture.shape
