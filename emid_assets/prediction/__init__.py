"""Predicts emotion from the media themselves, for media without labels or ratings."""
