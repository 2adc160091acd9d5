"""Captions for images that have none: the captioner interface, and which images need a caption."""
