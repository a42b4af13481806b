"""The commands: `python -m okd_jax COMMAND` and what they share."""
