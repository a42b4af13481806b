"""A run on disk: its files, its records, what it shows."""
