"""Captions of images that have none: what a captioner is, and which images it is asked for."""
