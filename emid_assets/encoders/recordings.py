"""Prepares several clips of one recording and decodes the recording once.

Belongs here: grouping the clips of one file, and reading them. A lossy file is decoded from its start
for every window, so reading window by window costs time that grows with the square of its length.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from emid_assets.encoders.interface import Float32Array, MediaItem, Prepared
from emid_assets.media.audio import Recording
from emid_assets.media.limits import MediaError


def by_recording(items: Sequence[MediaItem]) -> list[MediaItem]:
    """Items grouped by file; files in the order of their first item."""
    groups: dict[Path, list[MediaItem]] = {}
    for item in items:
        groups.setdefault(item.path, []).append(item)
    return [item for group in groups.values() for item in group]


def shared_recordings(items: Sequence[MediaItem]) -> frozenset[Path]:
    """Files that contain more than one item."""
    return frozenset(path for path, count in Counter(item.path for item in items).items() if count > 1)


class ClipReader:
    """An encoder's `prepare_music` that caches the decoded samples of the last shared recording.

    Args:
        prepare_music: the encoder's, for files with a single clip.
        music_input: the encoder's, for the other files.
        shared: see `shared_recordings`.
    """

    def __init__(
        self,
        prepare_music: Callable[[MediaItem], Prepared],
        music_input: Callable[[Float32Array, int], Prepared],
        shared: frozenset[Path],
    ) -> None:
        self._prepare_music = prepare_music
        self._music_input = music_input
        self._shared = shared
        self._path: Path | None = None
        self._recording: Recording | MediaError | None = None

    def __call__(self, item: MediaItem) -> Prepared:
        """The network's input for a clip.

        Raises:
            MediaError, PreparationError: the file or the clip cannot be read or encoded.
        """
        if item.path not in self._shared:
            return self._prepare_music(item)
        if item.path != self._path:
            self._path, self._recording = item.path, None  # free the last one before decoding the next
            try:
                self._recording = Recording(item.path)
            except MediaError as error:
                self._recording = error
        if not isinstance(self._recording, Recording):
            raise MediaError(str(self._recording))
        return self._music_input(*self._recording.window(item.start_s, item.duration_s))
