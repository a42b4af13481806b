"""Google Cloud Storage: access, and objects that are written conditionally.

Paths are those of epath over gcsfs, as Orbax uses it.
"""

from collections.abc import Iterable, Iterator
import contextlib
import logging
import os
import pathlib
from typing import Any, TYPE_CHECKING

from okd_jax.errors import ConfigError, OkdError, UnreachableError

if TYPE_CHECKING:
  from etils import epath


def path(address: str) -> "epath.Path":
  """A path object for gs://BUCKET/PATH.

  Raises:
    ConfigError: if the packages for it are not installed.
  """
  try:
    from etils import epath
    import fsspec
    import gcsfs
    from google.cloud import storage
  except ImportError as error:
    raise ConfigError(
      f"{address} needs packages for buckets ({error}); "
      "pip install gcsfs google-cloud-storage adds them."
    ) from error
  del gcsfs, storage  # only whether they are there
  # What fails is raised; gcsfs also prints it, with a traceback.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  # Other programs write there too.
  fsspec.config.conf.setdefault("gs", {}).setdefault(
    "use_listings_cache", False
  )
  return epath.Path(address)


def sizes_below(folder: "epath.Path") -> dict[str, int]:
  """Sizes of all objects below a folder; one request for each thousand.

  Args:
    folder: the folder; the names of the objects are relative to it.
  """
  top = _key(folder)
  with reached(folder):
    found = _files().find(top, detail=True)
  return {
    name.removeprefix(f"{top}/"): int(about["size"])
    for name, about in found.items()
    # Objects that stand for folders are made by Google's web pages.
    if not name.endswith("/") and about["type"] == "file"
  }


def sizes_in(folder: "epath.Path") -> dict[str, int]:
  """Sizes of the objects directly in a folder; empty if there is no folder."""
  with reached(folder):
    try:
      found = _files().ls(_key(folder), detail=True)
    except FileNotFoundError:
      return {}
  return {
    about["name"].rpartition("/")[2]: int(about["size"])
    for about in found
    if about["type"] == "file" and not about["name"].endswith("/")
  }


def read(
  folder: "epath.Path", parts: Iterable[tuple[str, int, int]]
) -> list[bytes | Exception]:
  """As `okd_jax.storage.files.read`, with simultaneous requests."""
  top = _key(folder)
  names, starts, ends = [], [], []
  for name, offset, length in parts:
    names.append(f"{top}/{name}")
    starts.append(None if length < 0 else offset)
    ends.append(None if length < 0 else offset + length)
  found = _files().cat_ranges(names, starts, ends, on_error="return")
  return [
    _explained(each, f"gs://{name}") if isinstance(each, Exception) else each
    for name, each in zip(names, found, strict=True)
  ]


@contextlib.contextmanager
def reached(path: "pathlib.Path | epath.Path") -> Iterator[None]:
  """Turns any error of a bucket's client into one that names the address.

  Args:
    path: the path that is read; nothing is done for one on this machine.

  Raises:
    UnreachableError: instead of the client's error, which can be of any type.
  """
  if isinstance(path, pathlib.Path):
    yield
    return
  try:
    yield
  except (OkdError, FileNotFoundError):
    raise
  except Exception as error:
    raise _explained(error, os.fspath(path)) from error


def _explained(error: Exception, address: str) -> Exception:
  if isinstance(error, FileNotFoundError):
    return FileNotFoundError(2, "no such object", address)
  reason = str(error) or type(error).__name__
  return UnreachableError(
    f"{address} cannot be read ({reason}); run the same command again when "
    "the bucket can be reached and read."
  )


def _key(path: "epath.Path") -> str:
  return os.fspath(path).removeprefix("gs://").rstrip("/")


def _files() -> Any:
  import fsspec

  return fsspec.filesystem("gs")


class Object:
  """One object that is written only if no one else has written it since.

  Args:
    path: path of the object.
  """

  def __init__(self, path: "epath.Path"):
    from google.api_core import exceptions
    from google.cloud import storage

    self._failed = exceptions.PreconditionFailed
    self._missing = exceptions.NotFound
    name, _, key = os.fspath(path).removeprefix("gs://").partition("/")
    self._bucket = storage.Client().bucket(name)
    self._key = key

  def read(self) -> tuple[bytes, int] | None:
    """Content and generation; None if there is no such object."""
    blob = self._bucket.blob(self._key)
    try:
      content = blob.download_as_bytes()
    except self._missing:
      return None
    return content, int(blob.generation or 0)

  def replace(self, content: bytes, generation: int) -> int | None:
    """Writes it if its generation is still this one; 0 if it must not exist.

    Returns:
      The new generation; None if another program was faster.
    """
    blob = self._bucket.blob(self._key)
    try:
      blob.upload_from_string(content, if_generation_match=generation)
    except self._failed:
      return None
    return int(blob.generation or 0)

  def remove(self, generation: int) -> None:
    """Deletes it if its generation is still this one."""
    try:
      self._bucket.blob(self._key).delete(if_generation_match=generation)
    except (self._failed, self._missing):
      pass
