import pytest
import torch

from emid_assets.encoders.interface import EncoderOutOfMemoryError, EncoderUnavailableError
from emid_assets.encoders.torch_device import choose_device, memory_errors


def test_auto_takes_what_is_there() -> None:
    here = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == here


def test_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("setting", "message"), [("cuda:99", "sees"), ("toaster", "is not one of")])
def test_a_device_that_is_not_there_is_an_error_that_says_so(setting: str, message: str) -> None:
    with pytest.raises(EncoderUnavailableError, match=message):
        choose_device(setting)


def test_torchs_own_out_of_memory_error_is_translated() -> None:
    with pytest.raises(EncoderOutOfMemoryError, match="cpu: 7 GiB"), memory_errors(torch.device("cpu")):
        raise torch.OutOfMemoryError("7 GiB are asked for\nand a long table")
