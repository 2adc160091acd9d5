"""Reads items from files that are still those of the inventory, and a recording with several clips only once.

Belongs here: grouping the clips of one file, and reading them. A lossy file is decoded from its start
for every window, so reading window by window costs time that grows with the square of its length.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from emid_assets.encoders.interface import Float32Array, MediaItem, Prepared
from emid_assets.media.audio import Recording
from emid_assets.media.identity import unchanged
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


class ItemReader:
    """An encoder's `prepare_music` or `prepare_image` that refuses a changed file (see `media.identity`).

    Caches the decoded samples of the last shared recording.

    Args:
        prepare: the encoder's, for files with a single item.
        music_input: the encoder's, for the other files; None if there are none.
        shared: see `shared_recordings`.
    """

    def __init__(
        self,
        prepare: Callable[[MediaItem], Prepared],
        music_input: Callable[[Float32Array, int], Prepared] | None,
        shared: frozenset[Path],
    ) -> None:
        self._prepare = prepare
        self._music_input = music_input
        self._shared = shared
        self._path: Path | None = None
        self._recording: Recording | MediaError | None = None

    def __call__(self, item: MediaItem) -> Prepared:
        """The network's input for an item.

        Raises:
            MediaError, PreparationError: the file has changed, or it or the clip cannot be read or encoded.
        """
        if item.path not in self._shared:
            with unchanged(item.path, item.content_hash):
                return self._prepare(item)
        if item.path != self._path:
            self._path, self._recording = item.path, None  # free the last one before decoding the next
            try:
                with unchanged(item.path, item.content_hash):
                    recording = Recording(item.path)
                self._recording = recording
            except MediaError as error:
                self._recording = error
        if not isinstance(self._recording, Recording):
            raise MediaError(str(self._recording))
        assert self._music_input is not None
        return self._music_input(*self._recording.window(item.start_s, item.duration_s))
