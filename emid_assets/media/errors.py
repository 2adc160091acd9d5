"""The errors of reading media."""


class MediaError(ValueError):
    """A media file cannot be used; `reason` is one line in English that says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MediaFolderError(ValueError):
    """A media folder is not laid out as one; the message says what is missing."""


class TableError(ValueError):
    """A table of media cannot be read; the message names the file, the row and what to do."""
