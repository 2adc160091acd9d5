"""The emotion model: 13 categories of music, 28 feelings, 11 ratings, Mikels' eight for images.

Belongs here: the names, their order, their positions on the valence-arousal scales, and looking up
a label that a user wrote. `ratings` parses table cells, `valence_arousal` computes.

Sources: the categories, feelings and ratings of music are those of Cowen et al. 2020 (PNAS), as
EMID (arXiv 2308.07622) uses them; the eight emotions of images are Mikels et al. 2005.
"""

from dataclasses import dataclass


class UnknownLabelError(ValueError):
    """A label is not one of the emotion model's."""


@dataclass(frozen=True)
class MusicEmotion:
    """One of the 13 categories of music.

    Attributes:
        key: readable name, used for partitions and folders, such as `sad`.
        letter: EMID's `genre`, A to M.
        name: the category in the source's own words, such as `Sad, depressing`.
        valence: mean rating of the category's clips, 1 to 9, over the 1,841 published rows.
        arousal: the same for arousal.
        valence_spread: standard deviation of the clips' mean ratings within the category, 1 to 9, over
            1,473 of these rows: how far a clip's own valence may be from the category's.
        arousal_spread: the same for arousal.
    """

    key: str
    letter: str
    name: str
    valence: float
    arousal: float
    valence_spread: float
    arousal_spread: float


@dataclass(frozen=True)
class ImageEmotion:
    """One of Mikels' eight emotions of images.

    Attributes:
        key: the tag, such as `awe`.
        valence: 0 to 1, from the NRC-VAD lexicon v1 (Mohammad 2018).
        arousal: the same for arousal.
    """

    key: str
    valence: float
    arousal: float


MUSIC_EMOTIONS = (
    MusicEmotion("amusing", "A", "Amusing", 5.90, 5.72, 0.80, 0.67),
    MusicEmotion("annoying", "B", "Annoying", 3.52, 4.65, 0.95, 0.92),
    MusicEmotion("anxious", "C", "Anxious, tense", 4.45, 5.06, 0.73, 0.75),
    MusicEmotion("beautiful", "D", "Beautiful", 6.01, 5.16, 0.80, 0.61),
    MusicEmotion("calm", "E", "Calm, relaxing, serene", 5.99, 4.81, 0.68, 0.60),
    MusicEmotion("dreamy", "F", "Dreamy", 4.94, 4.60, 0.82, 0.73),
    MusicEmotion("energizing", "G", "Energizing, pump-up", 5.45, 6.10, 0.80, 0.63),
    MusicEmotion("erotic", "H", "Erotic, desirous", 5.62, 5.23, 0.58, 0.53),
    MusicEmotion("indignant", "I", "Indignant, defiant", 4.54, 5.96, 0.84, 0.75),
    MusicEmotion("joyful", "J", "Joyful, cheerful", 6.25, 5.75, 0.62, 0.59),
    MusicEmotion("sad", "K", "Sad, depressing", 5.17, 4.49, 0.77, 0.67),
    MusicEmotion("scary", "L", "Scary, fearful", 3.61, 4.36, 0.75, 0.70),
    MusicEmotion("triumphant", "M", "Triumphant, heroic", 5.18, 5.99, 0.77, 0.76),
)
"""In the order of their letters."""

MUSIC_EMOTION_KEYS = tuple(emotion.key for emotion in MUSIC_EMOTIONS)

FEELINGS = (
    "Amusing",
    "Angry",
    "Annoying",
    "Anxious, tense",
    "Awe-inspiring, amazing",
    "Beautiful",
    "Bittersweet",
    "Calm, relaxing, serene",
    "Compassionate, sympathetic",
    "Dreamy",
    "Eerie, mysterious",
    "Energizing, pump-up",
    "Entrancing",
    "Erotic, desirous",
    "Euphoric, ecstatic",
    "Exciting",
    "Goose bumps",
    "Indignant, defiant",
    "Joyful, cheerful",
    "Nauseating, revolting",
    "Painful",
    "Proud, strong",
    "Romantic, loving",
    "Sad, depressing",
    "Scary, fearful",
    "Tender, longing",
    "Transcendent, mystical",
    "Triumphant, heroic",
)
"""The 28 feelings that listeners chose from, in the spelling of the published tables."""

RATINGS = (
    "arousal",
    "attention",
    "certainty",
    "commitment",
    "dominance",
    "enjoyment",
    "identity",
    "obstruction",
    "safety",
    "valence",
    "familiarity",
)
"""The 11 numbers of EMID's `emotion` column in its order, which is not alphabetical."""

IMAGE_EMOTIONS = (
    ImageEmotion("amusement", 0.929, 0.837),
    ImageEmotion("anger", 0.167, 0.865),
    ImageEmotion("awe", 0.469, 0.740),
    ImageEmotion("contentment", 0.875, 0.610),
    ImageEmotion("disgust", 0.052, 0.775),
    ImageEmotion("excitement", 0.896, 0.684),
    ImageEmotion("fear", 0.073, 0.840),
    ImageEmotion("sadness", 0.052, 0.288),
)

IMAGE_TAG_SPREAD = 0.12
"""Standard deviation, 0 to 1, of an image's own valence or arousal around that of its tag. A choice.

588 OASIS photographs, each with the tag that its ratings are nearest to, lie .35 (valence) and .39 (arousal)
of all photographs' standard deviation around their tags. Of the standard deviations of the eight tags, .38
and .18, that is .13 and .07; a rater, who does not know the ratings, chooses the nearest tag less often.
"""

IMAGE_EMOTION_KEYS = tuple(emotion.key for emotion in IMAGE_EMOTIONS)

_MUSIC_BY_LABEL = {
    label.casefold(): emotion
    for emotion in MUSIC_EMOTIONS
    for label in (emotion.letter, emotion.key, emotion.name)
}
_IMAGE_BY_LABEL = {emotion.key: emotion for emotion in IMAGE_EMOTIONS}


def find_music_emotion(label: str) -> MusicEmotion:
    """The category that `label` names: a letter (`K`), key (`sad`) or full name, in any case.

    Raises:
        UnknownLabelError: names the label and the ones allowed.
    """
    emotion = _MUSIC_BY_LABEL.get(_folded(label))
    if emotion is None:
        allowed = ", ".join(f"{known.letter} {known.key}" for known in MUSIC_EMOTIONS)
        raise UnknownLabelError(
            f"unknown music emotion {label!r}: use the letter, key or full name of a category ({allowed})"
        )
    return emotion


def find_image_emotion(label: str) -> ImageEmotion:
    """The one of Mikels' eight emotions that `label` names, in any case.

    Raises:
        UnknownLabelError: names the label and the ones allowed.
    """
    emotion = _IMAGE_BY_LABEL.get(_folded(label))
    if emotion is None:
        raise UnknownLabelError(
            f"unknown image emotion {label!r}: use one of {', '.join(IMAGE_EMOTION_KEYS)}"
        )
    return emotion


def _folded(label: str) -> str:
    return " ".join(label.split()).casefold()
