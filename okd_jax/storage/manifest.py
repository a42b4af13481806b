"""Manifests: the content of a checkpoint, with the checksum of every file.

Orbax 0.12 does not notice flipped bits in the files that it restores. So a step
counts as saved only when there is a manifest with the SHA-256 of its files, and
it is used only after these checksums have been checked.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
from pathlib import PurePosixPath
from typing import Any

from okd_jax.storage import files
from okd_jax.storage.paths import Path

_VERSION = 1
# Bytes that are read at once.
_PART = 2**20
# Differences that a message describes.
_MOST_DIFFERENCES = 5

# (path, shape, dtype) of one leaf of a state.
Leaf = tuple[str, tuple[int, ...], str]


class ManifestError(ValueError):
  """A manifest or one of its files is damaged."""


class UnreadableError(ManifestError):
  """Files cannot be read now, but may be complete."""


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The content of one saved step.

  Attributes:
    step: number of finished training steps.
    config_hash: hash of the configuration that saved it; empty if unknown.
    leaves: path, shape and dtype of every array, in tree order.
    apart: paths of the leaves that are stored as separate arrays.
    files: size in bytes and SHA-256 by path relative to the step's directory.
    extra: JSON values that the caller stored.
    score: score that decides which step is the best, higher is better; a step
      with None is never the best.
  """

  step: int
  config_hash: str
  leaves: tuple[Leaf, ...]
  apart: tuple[str, ...]
  files: Mapping[str, tuple[int, str]]
  extra: Mapping[str, Any]
  score: float | None


def hash_files(directory: Path) -> dict[str, tuple[int, str]]:
  """Size and SHA-256 of every file under `directory`, by relative path."""
  names = files.names_below(directory)
  return {name: _fingerprint(directory / name) for name in names}


def _fingerprint(path: Path) -> tuple[int, str]:
  with path.open("rb") as file:
    digest = hashlib.sha256()
    size = 0
    while part := file.read(_PART):
      digest.update(part)
      size += len(part)
    return size, digest.hexdigest()


def check_files(directory: Path, manifest: Manifest) -> None:
  """Compares every file with its entry.

  Args:
    directory: directory of the step.
    manifest: manifest of the step.

  Raises:
    ManifestError: naming the first file that is missing, unreadable or not
      the one that was saved.
  """
  for name, (size, digest) in manifest.files.items():
    path = directory / name
    try:
      found_size, found_digest = _fingerprint(path)
    except FileNotFoundError:
      raise ManifestError(f"{path} is missing") from None
    except Exception as error:
      raise _unreadable(path, error) from error
    if found_size != size:
      raise ManifestError(f"{path} has {found_size} bytes, {size} were saved")
    if found_digest != digest:
      raise ManifestError(f"{path} is damaged: its SHA-256 has changed")


def compare_leaves(saved: Sequence[Leaf], wanted: Sequence[Leaf]) -> list[str]:
  """Describes the first differences between the leaves of two states.

  Args:
    saved: leaves of the checkpoint.
    wanted: leaves of the state to fill.

  Returns:
    One line per difference; empty if the states have the same leaves.
  """
  have = {path: _describe(shape, dtype) for path, shape, dtype in saved}
  want = {path: _describe(shape, dtype) for path, shape, dtype in wanted}
  differences = [
    f"{path}: saved {have.get(path, 'nothing')}, "
    f"wanted {want.get(path, 'nothing')}"
    for path in want | have
    if have.get(path) != want.get(path)
  ]
  more = len(differences) - _MOST_DIFFERENCES
  return differences[:_MOST_DIFFERENCES] + (
    [f"and {more} more"] if more > 0 else []
  )


def _describe(shape: Sequence[int], dtype: str) -> str:
  return f"{dtype}[{','.join(map(str, shape))}]"


def write(path: Path, manifest: Manifest) -> None:
  """Writes a manifest so that it is either complete or absent."""
  content = _encode({"version": _VERSION, **dataclasses.asdict(manifest)})
  files.write(path, content, durable=True)


def read(path: Path) -> Manifest:
  """Reads a manifest back.

  Args:
    path: path of the manifest.

  Returns:
    The manifest, every field of the right type.

  Raises:
    ManifestError: if it cannot be read, or if a single bit of it has changed.
  """
  raw = _content(path)
  try:
    body = json.loads(raw)["manifest"]
    if body["version"] != _VERSION:
      raise ManifestError(
        f"{path} has version {body['version']}, this program reads {_VERSION}"
      )
    # Not only the checksum: also bytes that JSON would ignore are compared.
    if raw != _encode(body):
      raise ManifestError(f"{path} is damaged: its SHA-256 does not match")
    return Manifest(
      step=_integer(body["step"]),
      config_hash=_text(body["config_hash"]),
      leaves=tuple(
        (_text(p), tuple(_integer(n) for n in shape), _text(dtype))
        for p, shape, dtype in body["leaves"]
      ),
      apart=tuple(_text(path) for path in body["apart"]),
      files={
        _inside(name): (_integer(size), _text(digest))
        for name, (size, digest) in body["files"].items()
      },
      extra=dict(body["extra"]),
      score=None if body["score"] is None else float(body["score"]),
    )
  except ManifestError:
    raise
  except (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
  ) as error:
    raise ManifestError(f"{path} is damaged: {error!r}") from error


def _content(path: Path) -> bytes:
  try:
    return path.read_bytes()
  except FileNotFoundError:
    raise ManifestError(f"{path} is missing: the save was cut off") from None
  except Exception as error:
    raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ManifestError:
  """The error to raise for any error, as a bucket's client raises any type."""
  damaged = isinstance(error, IsADirectoryError | NotADirectoryError)
  kind = ManifestError if damaged else UnreadableError
  return kind(f"{path} cannot be read: {error}")


def _encode(body: Mapping[str, Any]) -> bytes:
  text = json.dumps(body, sort_keys=True, allow_nan=False)
  digest = hashlib.sha256(text.encode()).hexdigest()
  content = {"sha256": digest, "manifest": body}
  return json.dumps(content, indent=1, sort_keys=True).encode()


def _integer(value: Any) -> int:
  if type(value) is not int or value < 0:
    raise TypeError(f"{value!r} is not a whole number >= 0")
  return value


def _text(value: Any) -> str:
  if not isinstance(value, str):
    raise TypeError(f"{value!r} is not a string")
  return value


def _inside(name: str) -> str:
  path = PurePosixPath(name)
  if path.is_absolute() or ".." in path.parts:
    raise ValueError(f"file {name!r} lies outside the checkpoint")
  return name
