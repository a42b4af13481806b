"""Describe a copy of TensorFlow Datasets; a part of the command `data`."""

from okd_jax.cli import common
from okd_jax.runs import display
from okd_jax.storage import files, paths


def is_copy(path: str) -> bool:
  """Whether a path is a folder that TensorFlow Datasets has prepared."""
  return files.exists(paths.anywhere(path) / "dataset_info.json")


def run(path: str, *, write_index: bool, as_json: bool) -> None:
  """Prints a copy's metadata, or reads all of it and writes an index.

  Args:
    path: folder of the copy, including its version.
    write_index: whether to read all record files and write an index of where
      the images are.
    as_json: whether to print JSON, for programs.

  Raises:
    DataError: if the copy is damaged, or does not hold images with a label.
  """
  from okd_jax.data.formats import shards, tfds as prepared

  copy = prepared.inspect(paths.anywhere(path))
  splits = {
    split: {"images": sum(lengths), "files": len(lengths)}
    for split, lengths in copy.shards.items()
  }
  written = shards.write_index(copy) if write_index else None
  if as_json:
    about = {"classes": len(copy.class_names), "splits": splits}
    common.print_json(about | {"index": str(written) if written else None})
    return
  display.table(
    f"{path}, {len(copy.class_names)} classes",
    ["split", "images", "record files"],
    [
      (split, str(counts["images"]), str(counts["files"]))
      for split, counts in splits.items()
    ],
  )
  if written:
    print(f"The index is in {written}.")
