"""Emotion predicted from the media themselves, where nobody has labelled or rated them."""
