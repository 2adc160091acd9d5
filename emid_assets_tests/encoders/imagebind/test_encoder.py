from pathlib import Path

import numpy as np
import pytest
import torch

from emid_assets.encoders.embed import Earlier, embed
from emid_assets.encoders.imagebind import encoder as imagebind
from emid_assets.encoders.imagebind.encoder import (
    ImageBindEncoder,
    choose_precision_and_product,
    layer_sizes_of,
    load_imagebind,
    verify,
)
from emid_assets.encoders.imagebind.preprocessing import normalise_pixels
from emid_assets.encoders.interface import (
    EncoderOutOfMemoryError,
    EncoderUnavailableError,
    MediaItem,
)
from emid_assets.encoders.linear_products import LINEAR_PRODUCTS, LinearProductName, linear_refusal
from emid_assets.settings import Precision
from emid_assets_tests.encoders.imagebind.small_imagebind import SMALL, small_model, write_small_checkpoint

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
PIXELS = [RNG.integers(0, 256, (3, 224, 224), dtype=np.uint8) for _ in range(5)]
SOUNDS = [RNG.normal(size=(3, 1, 128, 204)).astype(np.float32) for _ in range(3)]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def encoder() -> ImageBindEncoder:
    return ImageBindEncoder(small_model(), "sum", CPU, "float32", "torch")


def test_rows_are_the_official_models(encoder: ImageBindEncoder) -> None:
    with torch.inference_mode():
        official = small_model()(
            {
                "vision": normalise_pixels(torch.from_numpy(np.stack(PIXELS))),
                "audio": torch.from_numpy(np.stack(SOUNDS)),
            }
        )
    np.testing.assert_allclose(encoder.encode_images(PIXELS), official["vision"], atol=2e-6)
    np.testing.assert_allclose(encoder.encode_music(SOUNDS), official["audio"], atol=2e-5)


def test_images_have_norm_1_and_music_is_the_mean_of_three_vectors_of_norm_20(
    encoder: ImageBindEncoder,
) -> None:
    assert encoder.dimension == 64
    np.testing.assert_allclose(np.linalg.norm(encoder.encode_images(PIXELS), axis=1), 1, atol=1e-6)
    one = SOUNDS[0]
    thirds = [encoder.encode_music([np.repeat(one[i : i + 1], 3, axis=0)])[0] for i in range(3)]
    np.testing.assert_allclose(np.linalg.norm(thirds, axis=1), 20, atol=1e-4)
    np.testing.assert_allclose(encoder.encode_music([one])[0], np.mean(thirds, axis=0), atol=1e-5)


@pytest.mark.processor
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_row_does_not_depend_on_its_batch_or_on_the_threads_bit_for_bit(precision: Precision) -> None:
    encoder = ImageBindEncoder(small_model(), "sum", CPU, precision)
    threads = torch.get_num_threads()
    rows = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            rows.append((encoder.encode_images(PIXELS).tobytes(), encoder.encode_music(SOUNDS).tobytes()))
            rows.append(
                (
                    b"".join(encoder.encode_images([one]).tobytes() for one in PIXELS),
                    b"".join(encoder.encode_music([one]).tobytes() for one in SOUNDS),
                )
            )
    finally:
        torch.set_num_threads(threads)
    assert rows[0] == rows[1] == rows[2] == rows[3]


@pytest.mark.processor
@pytest.mark.parametrize("product", ["torch", "onednn"])
@pytest.mark.parametrize(("precision", "least"), [("float32", 0.99999), ("bf16", 0.999)])
def test_every_product_and_precision_gives_the_same_directions_or_is_refused_by_name(
    encoder: ImageBindEncoder, product: LinearProductName, precision: Precision, least: float
) -> None:
    why = linear_refusal(product, CPU, imagebind.DTYPES[precision], layer_sizes_of(small_model()))
    if why:
        with pytest.raises(EncoderUnavailableError, match=f"product '{product}' cannot .* in {precision}"):
            ImageBindEncoder(small_model(), "sum", CPU, precision, product)
        return
    other = ImageBindEncoder(small_model(), "sum", CPU, precision, product)
    assert (other.product, other.precision) == (product, precision)
    assert cosines(other.encode_images(PIXELS), encoder.encode_images(PIXELS)).min() >= least
    assert cosines(other.encode_music(SOUNDS), encoder.encode_music(SOUNDS)).min() >= least


@pytest.mark.processor
def test_auto_encodes_on_every_processor(encoder: ImageBindEncoder) -> None:
    auto = ImageBindEncoder(small_model(), "sum", CPU, "auto")
    assert not linear_refusal(
        auto.product, CPU, imagebind.DTYPES[auto.precision], layer_sizes_of(small_model())
    )
    assert cosines(auto.encode_images(PIXELS), encoder.encode_images(PIXELS)).min() >= 0.999
    assert cosines(auto.encode_music(SOUNDS), encoder.encode_music(SOUNDS)).min() >= 0.999


@pytest.mark.processor
def test_the_sizes_that_are_tried_are_those_of_the_products_that_an_item_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = set()

    def watched(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.add((x[..., 0].numel(), x.shape[-1], len(weight)))
        return torch.nn.functional.linear(x, weight, bias)

    monkeypatch.setitem(LINEAR_PRODUCTS, "onednn", watched)
    watching = ImageBindEncoder(small_model(), "sum", CPU, "float32", "onednn")
    seen.clear()
    watching.encode_images(PIXELS)
    watching.encode_music(SOUNDS)
    assert seen == layer_sizes_of(small_model())


@pytest.mark.processor
def test_auto_keeps_to_float32_where_bf16_cannot_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_bf16(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if x.dtype == torch.bfloat16:
            raise RuntimeError("addmm is not implemented for BFloat16")
        return torch.nn.functional.linear(x, weight, bias)

    monkeypatch.setattr(imagebind, "BF16_GAIN", 0.01)
    for name in ("torch", "onednn"):
        monkeypatch.setitem(LINEAR_PRODUCTS, name, no_bf16)
    assert choose_precision_and_product(CPU, "auto")[0] == "float32"
    with pytest.raises(
        EncoderUnavailableError,
        match=r"precision 'bf16' .* not implemented .* set precision to float32 or auto",
    ):
        ImageBindEncoder(small_model(), "sum", CPU, "bf16")


def test_the_fingerprint_stands_for_weights_and_precision(encoder: ImageBindEncoder) -> None:
    same = ImageBindEncoder(small_model(), "sum", CPU, "float32")
    assert same.fingerprint == encoder.fingerprint
    assert ImageBindEncoder(small_model(), "other", CPU, "float32").fingerprint != encoder.fingerprint
    assert ImageBindEncoder(small_model(), "sum", CPU, "bf16").fingerprint != encoder.fingerprint


@pytest.mark.parametrize(
    ("float32_s", "bf16_s", "chosen"), [(2.0, 1.0, "bf16"), (1.2, 1.0, "float32"), (1.0, 9.0, "float32")]
)
def test_auto_takes_bf16_on_a_cpu_only_where_it_clearly_gains(
    monkeypatch: pytest.MonkeyPatch, float32_s: float, bf16_s: float, chosen: str
) -> None:
    seconds = {torch.float32: float32_s, torch.bfloat16: bf16_s}
    monkeypatch.setattr(imagebind, "fastest_linear_product", lambda dtype, sizes: ("torch", seconds[dtype]))
    assert choose_precision_and_product(CPU, "auto") == (chosen, "torch")
    assert choose_precision_and_product(CPU, "float32")[0] == "float32"


def test_the_whole_way_from_files_to_rows_with_workers_and_again_without_work(
    tmp_path: Path, sample_media: Path
) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "small.pth")
    encoder = load_imagebind("cpu", precision="float32", checkpoint=checkpoint, architecture=SMALL)
    images = [MediaItem(p.name, p, p.name) for p in sorted((sample_media / "images").glob("*.jpg"))]
    images += [
        MediaItem(f"{item.item_id} again", item.path, f"{item.content_hash} again") for item in images[:8]
    ]
    sounds = [MediaItem(p.name, p, p.name) for p in sorted((sample_media / "music").glob("*.ogg"))[:4]]
    result = embed(images, encoder, "image", workers=2, batch_size=8)
    assert (result.encoded, result.rejected.height) == (len(images), 0)
    assert result.frame["embedding"].to_numpy().shape == (len(images), 64)
    np.testing.assert_allclose(result.frame["scale"], 1, atol=1e-6)
    music = embed(sounds, encoder, "music")
    assert music.rejected.height == 0
    assert ((music.frame["scale"] > 10) & (music.frame["scale"] <= 20.001)).all()

    reloaded = load_imagebind("cpu", precision="float32", checkpoint=checkpoint, architecture=SMALL)
    again = embed(images, reloaded, "image", Earlier(result.frame, encoder.fingerprint))
    assert (again.encoded, again.reused) == (0, len(images))


def test_without_a_checkpoint_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("EMID_IMAGEBIND_CHECKPOINT", raising=False)
    with pytest.raises(EncoderUnavailableError, match="emid imagebind fetch --accept-licence"):
        load_imagebind("cpu")


def test_verify_gives_a_softmax_over_sounds_and_names_missing_assets(
    encoder: ImageBindEncoder, tmp_path: Path, sample_media: Path
) -> None:
    with pytest.raises(EncoderUnavailableError, match=r"lacks dog_image\.jpg, .*bird_audio\.wav"):
        verify(encoder, tmp_path)
    images = sorted((sample_media / "images").glob("*.jpg"))
    sounds = sorted((sample_media / "music").glob("*.ogg"))
    for name, source in zip(imagebind.VERIFY_ASSETS, [*images[:3], *sounds[:3]], strict=True):
        (tmp_path / name).write_bytes(source.read_bytes())
    matrix = verify(encoder, tmp_path)
    assert matrix.shape == (3, 3)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_the_published_matrix_is_a_softmax_too() -> None:
    np.testing.assert_allclose(np.sum(imagebind.VERIFY_MATRIX, axis=1), 1, atol=2e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "least"), [("float32", 0.99999), ("bf16", 0.999)])
def test_a_gpu_gives_the_cpus_directions_whatever_the_batch(
    encoder: ImageBindEncoder, precision: Precision, least: float
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: torch sees none")
    gpu = ImageBindEncoder(small_model(), "sum", torch.device("cuda"), precision)
    many = PIXELS * 9
    together = gpu.encode_images(many)
    assert cosines(together[:5], encoder.encode_images(PIXELS)).min() >= least
    assert cosines(gpu.encode_music(SOUNDS), encoder.encode_music(SOUNDS)).min() >= least
    assert together.tobytes() == np.concatenate([gpu.encode_images([one]) for one in many]).tobytes()


@pytest.mark.gpu
def test_a_full_gpu_halves_its_chunk_and_stays_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: torch sees none")
    gpu = ImageBindEncoder(small_model(), "sum", torch.device("cuda"), "float32")
    expected = gpu.encode_images(PIXELS)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (60 << 20)) / total)
    try:
        with pytest.raises(EncoderOutOfMemoryError, match="cuda"):
            gpu.encode_images(PIXELS)
        while True:
            try:
                got = gpu.encode_images(PIXELS[:1])
                break
            except EncoderOutOfMemoryError:
                assert gpu._chunk > 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(got[0], expected[0], atol=1e-5)
