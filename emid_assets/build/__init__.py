"""Runs the stages of a build: in this process, or on a cluster."""
