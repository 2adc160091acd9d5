"""Pretrained networks that put music and images into one space, and the stage that runs them."""
