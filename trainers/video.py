"""Videos: pictures and a few words under them, written as MP4 or GIF. The only file that imports imageio.

It knows nothing of games or dreams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from jedi_env.errors import UsageError, nearest

SUFFIXES = (".mp4", ".gif")
GAP = 8  # screen pixels between two panels
LINE = 14  # screen pixels a line of text
MARGIN = 4

Picture = NDArray[np.uint8]


class Panel(NamedTuple):
    """One of the pictures that are shown side by side.

    Attributes:
        picture: uint8 ``(height, width, 3)``.
        lines: what to say of it; the first is its name.
    """

    picture: Picture
    lines: tuple[str, ...]


class Video:
    """A video file, written while it is entered; there is none at ``path`` unless it was left without an error.

    An MP4 goes to the disk as it comes; a GIF is kept in memory until the end.

    Args:
        path: ends in .mp4 or .gif; its folder is created. An older file is replaced.
        fps: pictures a second (a GIF counts in hundredths of a second).

    Raises:
        UsageError: another ending, or imageio is not installed.
    """

    def __init__(self, path: Path, fps: int) -> None:
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise UsageError(
                f"{str(path)!r} is no video that can be written.{nearest(suffix, SUFFIXES)} Write .mp4 or .gif."
            )
        try:
            import av  # noqa: F401  # what imageio writes MP4 with
            import imageio.v3  # noqa: F401
        except ImportError as error:
            raise UsageError("Writing a video needs imageio and av: pip install 'jedi-env[video]'.") from error
        self.path, self.fps = path, fps
        self._partial = path.with_name(f".{path.stem}.partial{suffix}")
        self._write = self._open_gif if suffix == ".gif" else self._open_mp4

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._add, self._finish = self._write()
        return self

    def show(self, panels: Sequence[Panel]) -> None:
        """Add a picture: the panels side by side, each with its lines under it."""
        self._add(captioned(panels))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish()
            if error is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _open_mp4(self) -> tuple[Callable[[Picture], object], Callable[[], object]]:
        import imageio.v3 as iio

        file = iio.imopen(self._partial, "w", plugin="pyav")
        file.init_video_stream("libx264", fps=self.fps)
        return file.write_frame, file.close

    def _open_gif(self) -> tuple[Callable[[Picture], object], Callable[[], object]]:
        import imageio.v3 as iio

        pictures: list[Picture] = []

        def finish() -> None:
            if pictures:
                iio.imwrite(self._partial, pictures, plugin="pillow", duration=10 * round(100 / self.fps), loop=0)

        return pictures.append, finish


def captioned(panels: Sequence[Panel]) -> Picture:
    """Return one picture of all ``panels``; height and width are even, as video codecs want them."""
    pictures = beside([panel.picture for panel in panels])
    height, width = pictures.shape[:2]
    lines = max(len(panel.lines) for panel in panels)
    image = Image.new("RGB", (width + width % 2, _even(height + 2 * MARGIN + LINE * lines)))
    image.paste(Image.fromarray(pictures), (0, 0))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(LINE - 3)
    left = 0
    for panel in panels:
        for row, line in enumerate(panel.lines):
            draw.text((left + MARGIN, height + MARGIN + LINE * row), line, "white" if row == 0 else "silver", font)
        left += panel.picture.shape[1] + GAP
    return np.asarray(image)


def beside(pictures: Iterable[Picture]) -> Picture:
    """Return ``pictures`` of one height side by side, with a gap between two."""
    parts: list[Picture] = []
    for picture in pictures:
        if parts:
            parts.append(np.zeros((picture.shape[0], GAP, 3), np.uint8))
        parts.append(picture)
    return np.concatenate(parts, axis=1)


def _even(number: int) -> int:
    return number + number % 2
