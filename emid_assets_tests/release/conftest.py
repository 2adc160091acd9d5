"""A small data set with real files: whole clips, windows of one recording, images, and pairs made up."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.media.inventory import image_manifest, music_manifest, take_inventory
from emid_assets.release.emid_release import with_series, write_release
from emid_assets.release.release_media import FoundMedia
from emid_assets.store.schemas import FUSED_PAIRS
from emid_assets_tests.release.published import FEELINGS, RATINGS, picture, tone

MADE_WITH = {"alpha": "0.6", "encoder": "none | <made up>"}


@dataclass(frozen=True)
class SmallSet:
    media: Path
    music_clips: pl.DataFrame
    images: pl.DataFrame
    pairs: pl.DataFrame
    inventory: pl.DataFrame

    def release(
        self, folder: Path, images_per_clip: int = 3, forms: str = "folder,parquet,retrieval"
    ) -> pl.DataFrame:
        media = FoundMedia.of_inventory(self.media, self.inventory)
        return write_release(
            self.music_clips, self.images, self.pairs, media, folder, images_per_clip, MADE_WITH,
            forms.split(","),
        )  # fmt: skip


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> SmallSet:
    media = tmp_path_factory.mktemp("small-set")
    (media / "music" / "sad").mkdir(parents=True)
    (media / "images").mkdir()
    for number in range(4):
        (media / "music" / "sad" / f"song {number}, live.wav").write_bytes(tone(200 + number))
    (media / "music" / "long.ogg").write_bytes(tone(300, rate=32_000, seconds=6.0, form="OGG"))
    music = [
        "file,genre,feeling,emotion,is_original_clip,start_s,duration_s,source_id,licence,author",
        f'"sad/song 0, live.wav",K,"{FEELINGS}","{RATINGS}",true,,,,CC-BY-3.0,"O, Brien"',
        f'"sad/song 1, live.wav",K,"{FEELINGS}","nan{RATINGS[3:]}",true,,,,CC-BY-SA-3.0,',
        "long.ogg,scary,,,true,0,2,long,CC-BY-3.0,Somebody",
        "long.ogg,scary,,,false,3.25,1.5,long,CC-BY-3.0,Somebody",
    ]
    (media / "music.csv").write_text("\n".join(music) + "\n")
    images = ["file,tag,text,valence,arousal,source_id,licence,author"]
    for number in range(8):
        name = "1\\2.png" if number == 1 else f"{number}.png"
        (media / "images" / name).write_bytes(picture(20 * number))
        own = "0.25,0.75,series 1" if number == 0 else ",,"
        images.append(f'{name},{("awe", "fear")[number % 2]},"no. {number}, ""grey""",{own},CC0-1.0,')
    (media / "images.csv").write_text("\n".join(images) + "\n")
    inventory = take_inventory(media, workers=0)
    assert inventory["reason"].null_count() == inventory.height
    clips = pl.concat([music_manifest(inventory, key) for key in MUSIC_EMOTION_KEYS])
    pictures = pl.concat([image_manifest(inventory, key) for key in IMAGE_EMOTION_KEYS])
    pictures = with_series(pictures, inventory)
    rng = np.random.default_rng(0)
    rows = [
        {"clip_id": clip, "image_id": pictures["image_id"][int(image)], "rank": rank,
         "semantic_similarity": 0.1, "rescaled_similarity": 0.5, "emotional_similarity": 0.5,
         "fused_score": 0.5}
        for clip in clips["clip_id"]
        for rank, image in enumerate(rng.permutation(6)[:3], start=1)
    ]  # fmt: skip
    pairs = FUSED_PAIRS.check(pl.DataFrame(rows, schema=FUSED_PAIRS.empty().schema))
    return SmallSet(media, clips, pictures, pairs, inventory)


@pytest.fixture(scope="session")
def release(small_set: SmallSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake") / "release"
    small_set.release(folder)
    return folder
