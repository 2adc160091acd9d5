"""Imported once by the server that children are forked from: all that a run would import by itself."""

from importlib import import_module

for name in (
    "torch",
    "matplotlib.figure",
    "emid_assets.adapters.adapted_embeddings",
    "emid_assets.matching.frames",
    "emid_assets.matching.compiled",
    "emid_assets.report.health_page",
    "emid_assets.report.page",
    "emid_assets_tests.failures.faults",
    "emid_assets_tests.failures.tiny",
):
    import_module(name)
import_module("torch").set_num_threads(1)
