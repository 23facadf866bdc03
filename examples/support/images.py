"""Pictures of any kind and size, as a network sees them.

A picture keeps its shape and is fitted into a square; what is left over becomes paper. Grey ones
are ink on paper, whichever of the two is dark: the paper is the grey that half of the pixels are
below, the ink how far a pixel is from it, so that chalk on a board is read like a pen's line.
"""

from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

SIDE = 64  # pixels
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # modes whose greys go beyond 255


def read(path: Path, colour: bool) -> NDArray[np.uint8]:
    """Read a picture, of several frames the first, as a network sees it.

    Args:
        path: a file in any format that Pillow reads.
        colour: whether it is in colour.

    Returns:
        (64, 64, 3) red, green and blue, or (64, 64, 1) ink.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no picture, or a broken one; names the file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return fit(ImageOps.exif_transpose(image), colour)
    except UnidentifiedImageError:
        _refuse(path, "it is in no format that Pillow reads")
    except Image.DecompressionBombError as error:
        _refuse(path, str(error))
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, SyntaxError, ValueError) as error:  # what decoders raise on broken files
        _refuse(path, f"it is broken ({error})")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise ValueError(
        f"{path}: expected a picture, such as a PNG or JPEG file; {reason}. Save it as a PNG."
    )


def fit(image: Image.Image, colour: bool) -> NDArray[np.uint8]:
    """Fit a picture into the square.

    Example:
        >>> wide = Image.new("RGBA", (200, 50), (255, 0, 0, 255))
        >>> fit(wide, colour=True)[[0, 32], 5].tolist() # white above, red in the middle
        [[255, 255, 255], [255, 0, 0]]
        >>> fit(wide, colour=False).max().item() # nothing is written on it
        0
    """
    image = _on_white(image).convert("RGB")
    image = image if colour else image.convert("L")
    paper = 255 if colour else int(np.median(np.asarray(image)))
    scale = SIDE / max(image.size)
    width, height = (max(1, round(scale * pixels)) for pixels in image.size)
    square = Image.new(image.mode, (SIDE, SIDE), (paper,) * len(image.getbands()))
    fitted = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(fitted, ((SIDE - width) // 2, (SIDE - height) // 2))
    pixels = np.array(square)
    return pixels if colour else strong(np.abs(pixels.astype(np.int32) - paper))[..., None]


def strong(ink: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Scale ink so that where there is most of it there is 255.

    Example:
        >>> strong(np.array([0, 5, 50])).tolist(), strong(np.zeros(2, int)).tolist()
        ([0, 25, 255], [0, 0])
    """
    return (255 * ink.astype(np.int32) // max(int(ink.max()), 1)).astype(np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    """Put a picture with transparent parts on white, and bring deep greys into 0 … 255."""
    if image.mode in DEEP:
        return _shallow(image)
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)


def _shallow(image: Image.Image) -> Image.Image:
    greys = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0)
    low, high = greys.min(), greys.max()
    return Image.fromarray((255 * (greys - low) / max(high - low, 1e-9)).astype(np.uint8))
