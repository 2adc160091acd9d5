"""How a command that runs long is told to stop."""

import signal


def raise_on_signals() -> None:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt, whatever this process inherited.

    A shell makes its background jobs deaf to Ctrl-C, and Dagster gives SIGTERM the handler that it
    finds for SIGINT when it is imported: call this after that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
