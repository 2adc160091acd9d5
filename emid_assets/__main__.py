"""`python -m emid_assets`: the same as the command `emid`."""

from emid_assets.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
