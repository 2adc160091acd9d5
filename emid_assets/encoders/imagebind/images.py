"""Makes the 8-bit pixels that ImageBind sees from an image file.

Belongs here: reading, resizing and cropping, as the official code does them. No torch, so that a worker that
prepares images starts at once. `preprocessing.normalise_pixels` does the rest on the device.
"""

import numpy as np
from PIL import Image

from emid_assets.encoders.interface import MediaItem, Prepared
from emid_assets.media.image import read_rgb

IMAGE_SIDE = 224


def prepare_image(item: MediaItem) -> Prepared:
    """Read an image: uint8 (3, 224, 224), resized and cropped; `normalise_pixels` turns it into the input.

    Pixels stay at 8 bits per channel until they are on the device: a quarter of the bytes to send between
    processes.
    """
    return resize_and_crop(read_rgb(item.path))


def resize_and_crop(image: Image.Image) -> Prepared:
    """Resize the short side to 224 (Pillow bicubic) and crop the centre 224 × 224 pixels.

    As torchvision's `Resize(224, BICUBIC)` and `CenterCrop(224)` do for a Pillow image.

    Args:
        image: RGB, any size.

    Returns:
        uint8 (3, 224, 224).
    """
    width, height = image.size
    short, long = sorted((width, height))
    long = int(IMAGE_SIDE * long / short)
    width, height = (IMAGE_SIDE, long) if width <= height else (long, IMAGE_SIDE)
    left, top = round((width - IMAGE_SIDE) / 2), round((height - IMAGE_SIDE) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = resized.crop((left, top, left + IMAGE_SIDE, top + IMAGE_SIDE))
    return np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1))
