"""Matching music to images: the streaming softmax over all images, and the fused score.

Importing the package loads nothing: each module imports what it needs.
"""
