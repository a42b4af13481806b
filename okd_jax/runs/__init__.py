"""A run on disk: its files, its records and its output."""
