"""The words that come with an image: its caption, or its file name where that is words.

Belongs here: how a name that people gave is told from a camera's, such as `IMG_0001`. No network:
`image_text` makes vectors of these words.
"""

import re
import unicodedata

VOWELS = frozenset("aeiouy")
MOST_CONSONANTS = 6
"""Most consonants in a row within a word: `Knightsbridge` has six."""
LATIN_ENDS = "\u024f"
"""Last letter of the Latin alphabets; the letters of other scripts are not asked for vowels."""
_DEVICES = "cimg dcim dji dsc dscf dscn gopr hdr hpim imag img imgp kimg mvi pano pict pxl sam vid"
_PROGRAMS = (
    "adobe alamy app depositphotos facebook fbimg getty gettyimages instagram istock istockphoto pexels "
    "pixabay screen screenshot scan shot shutterstock signal snapchat stock telegram unsplash whats whatsapp"
)
_ANY_PICTURE = (
    "and arw bild copy crop cropped dng edit edited file final for foto from heic image images jpeg jpg "
    "large medium nef new orf orig original photo photograph photos pic picture pictures png resized small "
    "the thumb thumbnail tif tiff tmp unnamed untitled webp with"
)
NOT_WORDS = frozenset(f"{_DEVICES} {_PROGRAMS} {_ANY_PICTURE}".split())
"""What a file name may consist of and still say nothing about the picture."""


def words_of(caption: str | None, file: str) -> tuple[str, str] | None:
    """The words of an image and where they are from, `caption` or `file name`; None if it has none.

    Args:
        caption: of the table, or None. It is taken as it is if it contains a letter.
        file: path or name of the image.
    """
    text = " ".join((caption or "").split())
    if any(character.isalpha() for character in text):
        return text, "caption"
    words = words_in_name(file)
    return (words, "file name") if words else None


def words_in_name(file: str) -> str:
    """The words in a file's name, without its folder and numbers; empty where the name has none.

    The name is split at everything that is no letter, and between `a` and `B`. A part counts as a word if it
    has at least three letters, a vowel, not more than six consonants in a row, and is none of `NOT_WORDS`.
    Letters of other scripts than Latin count without vowels. Parts in which letters and digits alternate
    (`04F4xlWSFh0`), and hexadecimal numbers (`3f2b-9c41-…`), are identifiers, not words.
    """
    stem = unicodedata.normalize("NFC", file.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    if _is_hexadecimal(re.sub(r"[\W_]", "", stem)):
        return ""
    parts = [part for part in re.split(r"[\W_]+", stem) if not _is_identifier(part)]
    runs = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-zß-öø-ÿ])(?=[A-Z])", " ", " ".join(parts)))
    return " ".join(run for run in runs if _is_word(run))


def _is_hexadecimal(letters: str) -> bool:
    return len(letters) >= 12 and re.fullmatch(r"(?=.*\d)[\da-fA-F]+", letters) is not None


def _is_identifier(part: str) -> bool:
    """Whether letters and digits alternate: `beach12` and `2ndBeach` are none, `x3Kf9` is one."""
    runs = re.findall(r"\d+|\D+", part)
    return len(runs) > 3 or (len(runs) > 1 and _is_hexadecimal(part))


def _is_word(run: str) -> bool:
    plain = "".join(
        letter for letter in unicodedata.normalize("NFD", run.casefold()) if not unicodedata.combining(letter)
    )
    if plain in NOT_WORDS:
        return False
    if any(letter > LATIN_ENDS for letter in plain):
        return True
    consonants = max(map(len, re.split(f"[{''.join(sorted(VOWELS))}]", plain)))
    return len(plain) >= 3 and not VOWELS.isdisjoint(plain) and consonants <= MOST_CONSONANTS
