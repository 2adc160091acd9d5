"""Makes the views of an image file that the network reads.

Belongs here: pixels only, without torch because worker processes import this module.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emid_assets.encoders.bundled.preprocessing import CROP, IMAGE_SIDE
from emid_assets.encoders.interface import MediaItem
from emid_assets.media.image import read_rgb

VIEWS_VERSION = "1"


def prepare_views(item: MediaItem) -> NDArray[np.uint8]:
    """Read an image file: uint8 (2, 224, 224, 3), see `views`."""
    return views(read_rgb(item.path))


def views(image: Image.Image) -> NDArray[np.uint8]:
    """Two views, each resized to 224 × 224 with Pillow's bicubic filter: uint8 (2, 224, 224, 3).

    The centre square, 87.5 % of the short side, as in the network's evaluation; and the whole image squeezed
    into the square, since what makes an image happy or sad may be at its edge.

    Args:
        image: RGB, any size.
    """
    width, height = image.size
    side = CROP * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    boxes = ((left, top, left + side, top + side), (0.0, 0.0, float(width), float(height)))
    size = (IMAGE_SIDE, IMAGE_SIDE)
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=box)) for box in boxes])
