"""The command line `emid`: thin commands on the code that the Dagster assets run."""
