"""Videos: the robot beside its spikes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from spiky_rl.config import files

Frame = np.ndarray
"""uint8 [height, width, 3]."""

FRAME_HEIGHT = 480
"""Height in pixels of a frame of a robot and of the spike raster beside it."""
BACKGROUND, INK, FAINT = 250, 25, 205
MARGIN, LABEL, PIXEL = 12, 18, 2
"""Pixels: margin of the image and gap below a layer's band; height of a layer's label; width of an inner step."""


class RasterPanel:
    """A moving spike raster with one band per layer; time runs to the right, and the present is at the right edge."""

    def __init__(self, width: int = 640, height: int = FRAME_HEIGHT, steps: int = 4) -> None:
        """``steps`` is K, the inner steps per control step; the panel shows as many control steps as fit its width.

        If none fits, it shows the last inner steps of one.
        """
        self.width, self.height = width, height
        columns = (width - 2 * MARGIN) // PIXEL
        control_steps = max(1, columns // steps)
        self.columns = min(columns, control_steps * steps)
        self.past: deque[list[np.ndarray]] = deque(maxlen=control_steps)

    def add(self, spikes: Sequence[Tensor]) -> None:
        """Add one control step: ``spikes`` [K, N] of every layer."""
        self.past.append([(layer != 0).cpu().numpy() for layer in spikes])

    def frame(self) -> Frame:
        """Return the panel as an image, which is empty before the first control step."""
        from PIL import Image, ImageDraw

        image = np.full((self.height, self.width, 3), BACKGROUND, np.uint8)
        if not self.past:
            return image
        layers = len(self.past[-1])
        band = (self.height - MARGIN) // layers
        # many layers have room for spikes alone
        title, gap = (LABEL, MARGIN) if band > LABEL + MARGIN + 1 else (0, 1)
        labels = []
        for i in range(layers):
            spikes = np.concatenate([step[i] for step in self.past])[-self.columns :]  # [time, N]
            total = spikes.shape[1]
            space = band - title - gap
            rows = max(1, min(total, space // 2))
            tall = max(1, space // rows)
            chosen = spikes[:, np.linspace(0, total - 1, rows).astype(int)].T  # [rows, time]
            dots = np.kron(chosen, np.ones((tall, PIXEL), bool))
            if tall > 2:
                dots[tall - 1 :: tall] = False
            top, right = MARGIN + i * band + title, MARGIN + self.columns * PIXEL
            area = image[top : top + dots.shape[0], right - dots.shape[1] : right]
            area[dots] = INK
            if title:
                image[top - 2, MARGIN:right] = FAINT
                rate = self.past[-1][i].mean()
                text = f"layer {i + 1}: {rows} of {total} neurons, {rate:.0%} firing"
                labels.append(((MARGIN, top - title), text))
        labelled = Image.fromarray(image)
        pen = ImageDraw.Draw(labelled)
        for corner, text in labels:
            pen.text(corner, text, fill=(INK, INK, INK), font_size=13)
        return np.asarray(labelled)


def scale_frame(frame: Frame) -> Frame:
    """Return the ``frame`` of a simulator scaled to `FRAME_HEIGHT`, with an even width, which H.264 needs."""
    from PIL import Image

    height, width = frame.shape[:2]
    even_width = round(width * FRAME_HEIGHT / height / 2) * 2
    if (height, width) == (FRAME_HEIGHT, even_width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((even_width, FRAME_HEIGHT)))


def concat_frames(left: Frame, right: Frame) -> Frame:
    """Return two frames of equal height side by side."""
    return np.concatenate([left, right], axis=1)


def write_video(path: Path, frames: Sequence[Frame], fps: float) -> list[Path]:
    """Write ``frames`` at ``fps`` as an mp4 to ``path`` and as a GIF of half the size and at most some 20 fps beside it; return both paths."""
    gif = path.with_suffix(".gif")
    files.write_atomically(path, lambda part: _write_mp4(part, frames, fps))
    files.write_atomically(gif, lambda part: _write_gif(part, frames, fps))
    return [path, gif]


def _write_mp4(path: Path, frames: Sequence[Frame], fps: float) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "medium"}
        for image in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))
            )
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Sequence[Frame], fps: float) -> None:
    from PIL import Image

    stride = max(1, round(fps / 20))
    small = [Image.fromarray(f).resize((f.shape[1] // 2, f.shape[0] // 2)) for f in frames[::stride]]
    duration = round(1000 * stride / fps)
    small[0].save(
        path, format="GIF", save_all=True, append_images=small[1:], duration=duration, loop=0, optimize=True
    )
