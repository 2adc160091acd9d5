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
    "pixabay scan screenshot shutterstock signal snapchat stock telegram unsplash whats whatsapp"
)
_ANY_PICTURE = (
    "arw bild copy crop cropped dng edit edited file final foto heic image images jpeg jpg large medium nef "
    "new orf orig original photo photograph photos pic picture pictures png resized small thumb thumbnail "
    "tif tiff tmp unnamed untitled webp"
)
NOT_WORDS = frozenset(f"{_DEVICES} {_PROGRAMS} {_ANY_PICTURE}".split())
"""What says nothing about the picture; left out."""
SMALL_WORDS = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "no", "of", "on", "the", "to", "with")
)
"""What makes no name of words by itself, and is kept within one."""


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

    The name is split at everything that is no letter, and between `a` and `B`. It is words if one of its
    parts has at least three letters, a vowel, not more than six consonants in a row, and is none of
    `NOT_WORDS` and `SMALL_WORDS`. Letters of other scripts than Latin count without vowels. Parts in which
    letters and digits alternate (`04F4xlWSFh0`), and hexadecimal numbers (`3f2b-9c41-…`), are identifiers.
    """
    stem = unicodedata.normalize("NFC", file.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    if _is_hexadecimal(re.sub(r"[\W_]", "", stem)):
        return ""
    stem = re.sub(r"(?i)screen[\W_]?shot", " ", stem)
    parts = [part for part in re.split(r"[\W_]+", stem) if not _is_identifier(part)]
    runs = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-zß-öø-ÿ])(?=[A-Z])", " ", " ".join(parts)))
    told = [run for run in runs if run.casefold() not in NOT_WORDS]
    if not any(map(_is_word, told)):
        return ""
    return " ".join(run for run in told if len(run) >= 3 or run.casefold() in SMALL_WORDS or _is_word(run))


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
    if any(letter > LATIN_ENDS for letter in plain):
        return True
    consonants = max(map(len, re.split(f"[{''.join(sorted(VOWELS))}]", plain)))
    has_form = len(plain) >= 3 and not VOWELS.isdisjoint(plain) and consonants <= MOST_CONSONANTS
    return has_form and plain not in SMALL_WORDS
