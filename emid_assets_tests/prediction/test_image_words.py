"""Which file names are words."""

import pytest

from emid_assets.prediction.image_words import words_in_name, words_of

NAMES = {
    "Acorns 1.jpg": "Acorns",
    "images/oasis/Bloody knife 12.jpg": "Bloody knife",
    "dog_on_the_beach-03.png": "dog on the beach",
    "KKK rally 2.jpg": "KKK rally",
    "Shot 1.jpg": "Shot",
    "a_b beach.jpg": "a beach",
    "SunsetOverParis.jpeg": "Sunset Over Paris",
    "beach12.jpg": "beach",
    "2ndFloor.jpg": "Floor",
    "Frühling im Gebirge (2).webp": "Frühling Gebirge",
    "Knightsbridge.jpg": "Knightsbridge",
    "rhythm.png": "rhythm",
    "犬と海.jpg": "犬と海",
    "собака 4.jpg": "собака",
    "facade.jpg": "facade",
    "cat.v2.final.jpg": "cat",
    "pexels-photo-of-a-lonely-tree-1234567.jpeg": "of a lonely tree",
    "IMG_0001 sad clown.jpg": "sad clown",
    "e\u0301toile.jpg": "étoile",
}
NO_WORDS = [
    "IMG_0001.jpg", "img-20230101-wa0003.jpg", "DSC01234.JPG", "DSCN0042.jpg", "_DSC4711.NEF.jpg",
    "P1010023.JPG",
    "PXL_20230405_101112131.jpg", "MVI_1.png", "CIMG0001.jpg", "dji_0012.jpg", "GOPR0001.JPG", "100_0123.jpg",
    "Screen Shot 2020-01-01 at 10.00.00.png", "the.jpg", "from_a.jpg",
    "Screenshot from 2024-01-02 10-11-12.png", "WhatsApp Image 2023-01-01 at 10.11.12.jpeg", "photo.jpg",
    "image (3).png", "Untitled-1.png", "final_copy.png", "0001.png", "", "folder with words/0001.png",
    "3f2b9c41-beef-4dad-9face-0123456789ab.png", "d41d8cd98f00b204e9800998ecf8427e.jpg", "04F4xlWSFh0_75.jpg",
    "x3Kf9Qz2.jpg", "gettyimages-1234-612x612.jpg", "shutterstock_99.jpg", "qwrtz.jpg", "a.jpg", "ab_cd.jpg",
    "deadbeef0123.png", "signal-2021-01-01-123456.jpeg", "12345678_a1b2c3d4e5_b.jpg", "bcdfghjklmana.png",
]  # fmt: skip


@pytest.mark.parametrize(("name", "words"), NAMES.items())
def test_the_words_of_a_name_are_kept(name: str, words: str) -> None:
    assert words_in_name(name) == words


@pytest.mark.parametrize("name", NO_WORDS)
def test_a_cameras_name_an_identifier_and_a_number_are_no_words(name: str) -> None:
    assert words_in_name(name) == ""
    assert words_of(None, name) is None


def test_a_caption_comes_first_as_it_is_unless_it_says_nothing() -> None:
    assert words_of("  A dog,\n 3 cats. ", "beach.jpg") == ("A dog, 3 cats.", "caption")
    assert words_of(" – 12 ", "beach.jpg") == ("beach", "file name")
    assert words_of("", "IMG_1.jpg") is None
