"""Loads an exported network; needs only JAX, safetensors and flatbuffers.

The folder holds `weights.safetensors`, `model.stablehlo` (a program of
`jax.export` for CPU, CUDA and TPU and for any batch size) and `card.json`. This
code loads and calls a network without this module:

    weights = safetensors.numpy.load_file("leader/weights.safetensors")
    content = pathlib.Path("leader/model.stablehlo").read_bytes()
    program = jax.export.deserialize(bytearray(content))
    logits = program.call(weights, images)
"""

from collections.abc import Callable
import hashlib
import json
import os
from typing import Any

import jax
import jax.export
import safetensors
import safetensors.numpy

from okd_jax.errors import LeaderError
from okd_jax.storage import files, paths
from okd_jax.storage.paths import Path

Variables = dict[str, Any]

CARD = "card.json"
WEIGHTS = "weights.safetensors"
PROGRAM = "model.stablehlo"


def folder_of(path: Path) -> Path | None:
  """The exported network that a path is, or is a file of; None if of none."""
  folders = [path]
  if path.name in (CARD, WEIGHTS, PROGRAM):
    folders.append(path.parent)
  return next((f for f in folders if files.exists(f / CARD)), None)


def load_leader(
  path: str | os.PathLike[str],
) -> tuple[Callable[[Variables, Any], jax.Array], Variables]:
  """Loads the network that `python -m okd_jax export` wrote.

  Args:
    path: the folder, for example `runs/okddip_c100/leader`.

  Returns:
    A function `apply(variables, images)` and its variables, nested dicts of
    NumPy arrays. Images are float32 [B, H, W, c] in [0, 1], of the card's
    `image_shape`, for any B. The result is the logits, float32 [B, C], or for
    keypoints the heat maps [B, h, w, J]. The function includes the
    normalisation of the images. It may be used inside `jax.jit`, but it can be
    neither differentiated nor mapped by `jax.vmap`.

  Raises:
    LeaderError: if a file is missing or is not the one that was exported, or if
      the network was exported in another format.
  """
  folder = paths.anywhere(path)
  card = read_card(folder)
  if PROGRAM not in card["files"]:
    raise LeaderError(
      f"{folder} was exported as {card['format']}, which JAX does not read; "
      "export it with --format=stablehlo."
    )
  weights = read_weights(folder, card)
  program = jax.export.deserialize(
    bytearray(_checked(folder, PROGRAM, card["files"]))
  )

  def apply(variables: Variables, images: Any) -> jax.Array:
    return program.call(flatten(variables), images)

  return apply, unflatten(weights)


def read_card(folder: Path) -> dict[str, Any]:
  """Reads the card of an exported network, which describes it.

  Returns:
    The card; `card[name]` raises LeaderError if it has no such entry.

  Raises:
    LeaderError: if there is no card or it is damaged.
  """
  try:
    card = _Card(json.loads(files.text(folder / CARD)))
    if not isinstance(card.get("files"), dict):
      raise ValueError("'files' is not an object")
  except OSError as error:
    raise LeaderError(
      f"{folder} holds no exported network ({error.strerror}: "
      f"{error.filename}); write one with `python -m okd_jax export WORKDIR`."
    ) from error
  except (ValueError, LookupError, TypeError) as error:
    raise LeaderError(
      f"{folder / CARD} is damaged ({error!r}); export the run again."
    ) from error
  return card


class _Card(dict[str, Any]):
  def __missing__(self, name: str) -> Any:
    raise LeaderError(
      f"{CARD} is damaged (it has no '{name}'); export the run again."
    )


def read_weights(folder: Path, card: dict[str, Any]) -> dict[str, Any]:
  """The weights as NumPy arrays by path, for example `params/stem/kernel`.

  Raises:
    LeaderError: if the file is not the one that was exported.
  """
  _checked(folder, WEIGHTS, card["files"])
  with files.on_disk(folder / WEIGHTS) as file:
    # `safetensors.numpy.load`, of bytes, does not know bfloat16.
    return dict(safetensors.numpy.load_file(file))


def digest(content: bytes) -> str:
  """The SHA-256 of a file's content, in the form that the card has."""
  return hashlib.sha256(content).hexdigest()


def flatten(variables: Variables, prefix: str = "") -> dict[str, Any]:
  """Nested variables by path: the names, joined by slashes.

  A slash or tilde in a name becomes "~1" or "~0", as in JSON pointers; spectral
  normalisation has such names.
  """
  flat: dict[str, Any] = {}
  for name, value in variables.items():
    name = name.replace("~", "~0").replace("/", "~1")
    if isinstance(value, dict):
      flat |= flatten(value, f"{prefix}{name}/")
    else:
      flat[prefix + name] = value
  return flat


def unflatten(weights: dict[str, Any]) -> Variables:
  """The inverse of `flatten`, except that empty collections are lost."""
  nested: Variables = {}
  for path, value in weights.items():
    *names, last = (
      name.replace("~1", "/").replace("~0", "~") for name in path.split("/")
    )
    inner = nested
    for name in names:
      inner = inner.setdefault(name, {})
    inner[last] = value
  return nested


def _checked(folder: Path, name: str, sums: dict[str, str]) -> bytes:
  try:
    content = files.content(folder / name)
  except OSError as error:
    raise LeaderError(
      f"{folder / name} cannot be read ({error.strerror}); export the run "
      "again."
    ) from error
  if digest(content) != sums.get(name):
    raise LeaderError(
      f"{folder / name} does not match the SHA-256 in {CARD}: it is damaged "
      "or belongs to another export. Export the run again."
    )
  return content
