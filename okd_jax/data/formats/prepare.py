"""Lets TensorFlow Datasets prepare a copy, from local files or the network.

The network is used only here, and only if files are missing.
"""

from collections.abc import Iterable, Iterator
import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
import socket
import threading
import urllib.parse
import urllib.request

import filelock

from okd_jax.data.formats import publisher as readers, tfds as prepared
from okd_jax.errors import DataError
from okd_jax.storage.paths import Path

_log = logging.getLogger(__name__)

_PROBE_SECS = 2.0
_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_INSTALL = "pip install tensorflow-cpu tensorflow-datasets importlib_resources"


def known_names() -> list[str]:
  """Names of the TensorFlow Datasets catalogue; [] if not installed.

  TensorFlow itself is not imported.
  """
  try:
    import tensorflow_datasets as tfds
  except ImportError:
    return []
  return tfds.list_builders(with_community_datasets=False)


def prepare(
  name: str,
  data_dir: Path,
  manual_files: Iterable[Path] = (),
  *,
  download: bool = True,
) -> Path:
  """Returns a prepared copy of a data set; makes one if there is none.

  Args:
    name: `name` or `name/config` of TensorFlow Datasets.
    data_dir: folder of the copies.
    manual_files: the publisher's files that are on this machine already, named
      as published. They are used instead of a download.
    download: whether missing files may be downloaded.

  Returns:
    The folder of the copy.

  Raises:
    DataError: if it cannot be made; within five seconds if the publisher cannot
      be reached.
  """
  if found := prepared.find(name, data_dir):
    return found
  manual = [path for path in manual_files if isinstance(path, pathlib.Path)]
  if not isinstance(data_dir, pathlib.Path):
    raise DataError(
      f"data set '{name}' is not prepared in {data_dir}, and copies are "
      "prepared on a disk only. Prepare it there, by any run without "
      f"config.data.dir or by `tfds build {name}`, and copy it once: gcloud "
      f"storage cp -r ~/tensorflow_datasets/{name} {data_dir / name}"
    )
  files = {path.name: path for path in manual}
  url_infos = _url_infos(name, data_dir)
  missing = {
    url: info.filename
    for url, info in url_infos.items()
    if info.filename not in files
  }
  if missing or not url_infos:
    if not download:
      problem, remedy = "config.data.download is False", "Set it to True"
      raise DataError(_explain(name, data_dir, problem, remedy=remedy))
    for url in _one_a_host(missing) or ["https://storage.googleapis.com"]:
      if not _reachable(url):
        problem = f"{urllib.parse.urlsplit(url).hostname} does not answer"
        raise DataError(_explain(name, data_dir, problem, missing.values()))
  try:
    with _turn(name, data_dir):
      # By now another program may have done it.
      if found := prepared.find(name, data_dir):
        return found
      for url, info in url_infos.items():
        if info.filename in files:
          _place(name, data_dir, url, info, files[info.filename])
      tfds = import_tfds()
      builder = tfds.builder(name, data_dir=os.fspath(data_dir))
      builder.download_and_prepare(
        download_dir=os.fspath(data_dir / "downloads"), file_format="tfrecord"
      )
  except DataError:
    raise
  # Builders of 400 data sets raise whatever their own code raises.
  except Exception as error:
    raise DataError(
      _explain(name, data_dir, f"{type(error).__name__}: {error}")
    ) from error
  return pathlib.Path(builder.data_dir)


@contextlib.contextmanager
def _turn(name: str, data_dir: pathlib.Path) -> Iterator[None]:
  """Keeps other programs from preparing a data set; waits for them first."""
  data_dir.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(data_dir / f"{name.replace('/', '.')}.lock")
  try:
    lock.acquire(blocking=False)
  except filelock.Timeout:
    _log.warning("Waiting for another program that prepares '%s'.", name)
    lock.acquire()
  try:
    yield
  finally:
    lock.release()


def import_tfds():
  """Imports TensorFlow, keeps it off the accelerators, returns tfds."""
  # It would print the traceback of every error that is raised inside of it.
  # 1 is from JAX, which was imported before, and stands for no choice.
  if os.environ.get(_LEVEL, "1") == "1":
    os.environ[_LEVEL] = "2"
  try:
    import tensorflow as tf
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise DataError(
      f"TensorFlow Datasets cannot be imported ({error}); run: {_INSTALL}"
    ) from error
  tf.config.set_visible_devices([], "GPU")
  return tfds


def _url_infos(name: str, data_dir: pathlib.Path):
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise DataError(
      _explain(name, data_dir, f"TensorFlow Datasets is missing; {_INSTALL}")
    ) from error
  return tfds.builder_cls(name.split("/")[0]).url_infos or {}


def _explain(
  name, data_dir, problem, files=(), remedy="Connect to the network"
) -> str:
  expected = readers.expected_files(name) or ", ".join(files)
  place = f", or the publisher's files in {data_dir}: {expected}"
  return (
    f"data set '{name}' is not prepared and cannot be ({problem}). Expected a "
    f"prepared copy in {data_dir / name}{place if expected else ''}. {remedy}, "
    f"or put {'one of these' if expected else 'it'} there, or set "
    "config.data.dir to the folder that has it."
  )


def _one_a_host(urls: Iterable[str]) -> list[str]:
  return list(
    {urllib.parse.urlsplit(url).hostname: url for url in urls}.values()
  )


def _reachable(url: str) -> bool:
  """Whether a connection to a host, or to the proxy before it, opens."""
  parts = urllib.parse.urlsplit(url)
  proxy = urllib.request.getproxies().get(parts.scheme)
  if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
    parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"http://{proxy}")
  default_port = 443 if parts.scheme == "https" else 80
  address = (parts.hostname or "", parts.port or default_port)
  answers: list[bool] = []

  def connect():
    try:
      socket.create_connection(address, timeout=_PROBE_SECS).close()
      answers.append(True)
    except OSError:
      pass

  # In a thread because the time to resolve a name cannot be limited.
  thread = threading.Thread(target=connect, daemon=True)
  thread.start()
  thread.join(_PROBE_SECS)
  return bool(answers)


def _place(name, data_dir, url, url_info, path: pathlib.Path) -> None:
  """Puts a file where the builder looks for its downloads."""
  from tensorflow_datasets.core.download import resource

  # Debian's package has repacked the files of Fashion-MNIST, which changes the
  # header of a gzip file but not its contents.
  if not path.name.endswith("-ubyte.gz"):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != url_info.checksum:
      raise DataError(
        f"{path} has the SHA-256 {digest}; {url_info.checksum} was expected. "
        f"Replace the file with that of {url}."
      )
  folder = data_dir / "downloads" / name.split("/")[0]
  folder.mkdir(parents=True, exist_ok=True)
  target = folder / resource.get_dl_fname(url, url_info.checksum)
  shutil.copyfile(path, target)
  note = {
    "urls": [url],
    "dataset_names": [name],
    "original_fname": url_info.filename,
    "url_info": url_info.asdict(),
  }
  target.with_name(target.name + ".INFO").write_text(json.dumps(note))
