"""How a long-running command is stopped."""

import signal


def raise_on_signals() -> None:
    """Make Ctrl-C and SIGTERM raise KeyboardInterrupt, whatever handlers this process inherited.

    A shell makes its background jobs ignore Ctrl-C, and Dagster, when it is imported, copies the handler of
    SIGINT to SIGTERM. So call this after importing Dagster.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
