"""ImageBind's own classes at half a million parameters, with random weights: the same inputs, in no time."""

import copy
from functools import cache
from pathlib import Path

import torch
from torch import nn

from emid_assets.encoders.imagebind.model import Architecture, build

SMALL = Architecture(
    vision_embed_dim=96,
    vision_num_blocks=2,
    vision_num_heads=4,
    audio_embed_dim=64,
    audio_num_blocks=2,
    audio_num_heads=4,
    out_embed_dim=64,
)


def small_model() -> nn.Module:
    """The model with weights that are the same each time, to be changed at will."""
    return copy.deepcopy(_small_model())


@cache
def _small_model() -> nn.Module:
    model = build(SMALL, "cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def write_small_checkpoint(path: Path) -> Path:
    """A checkpoint of the small model, with a tensor of another modality in it as the real one has."""
    tensors = {**small_model().state_dict(), "modality_heads.text.proj.1.weight": torch.zeros(3)}
    torch.save(tensors, path)
    return path
