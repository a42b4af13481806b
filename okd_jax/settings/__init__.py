"""The configuration of a run, its checks, and what is built from it."""
