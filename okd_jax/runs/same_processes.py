"""Checks whether all processes of a run train the same."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any
import zlib

from okd_jax.data import Source
from okd_jax.devices.processes import Meeting
from okd_jax.errors import ConfigError, DataError
from okd_jax.settings import freeze
from okd_jax.settings.schema import Comparison, RunConfig

_MOST = 3
# Paths that may differ from machine to machine: of the data, and of a file that
# process 0 alone reads.
_PLACES = ("data.dir", "published")


def require_settings(config: RunConfig | Comparison) -> None:
  """Refuses processes with different settings; a collective.

  Raises:
    ConfigError: in all processes, saying what differs.
  """
  settings = freeze.flatten(config)
  ours = {
    f"config.{name}": value
    for name, value in settings.items()
    if not name.endswith(_PLACES)
  }
  if problem := _difference(ours):
    raise ConfigError(
      f"{problem}; start all processes of a run with the same command."
    )


def require_data(source: Source) -> None:
  """Refuses processes with different data; a collective.

  Raises:
    DataError: in all processes, saying what differs.
  """
  files = "\n".join(source.files).encode()
  ours = {
    # First, as people understand them best.
    **{name: getattr(source.info, name) for name in ("num_train", "num_test")},
    **dataclasses.asdict(source.info),
    "checksum of the files": zlib.crc32(files),
    "checksum of the labels": source.labels_sum,
  }
  if problem := _difference(ours):
    raise DataError(
      f"{source.info.name} is not the same in all processes: {problem}; give "
      "all of them the same data."
    )


def _difference(ours: Mapping[str, Any]) -> str:
  """How a process differs from process 0; empty if none does."""
  # Texts, as nan is not equal to itself.
  own = {name: json.dumps(value) for name, value in ours.items()}
  first = json.loads(Meeting().told(lambda: json.dumps(own)))
  differ = [
    f"{name} is {own.get(name, 'absent')} and not "
    f"{first.get(name, 'absent')} as in process 0"
    for name in own | first
    if own.get(name) != first.get(name)
  ]
  return Meeting().agree(", ".join(differ[:_MOST]))
