"""Figures in more pictures than fit in memory, read when they are needed."""

from collections.abc import Iterable, Iterator
from concurrent import futures
import itertools
import pathlib
from typing import Any, Unpack

import jax
import numpy as np

from okd_jax import core
from okd_jax.data import images
from okd_jax.data.keypoints import pictures
from okd_jax.data.keypoints.pictures import Files, Listing
from okd_jax.data.sources.source import (
  Batching,
  local_slots,
  Source,
  to_devices,
)
from okd_jax.devices import host

# Batches that are read before they are asked for.
_AHEAD = 2


class KeypointStream(Source):
  """Reads pictures as they are needed; each process loads its part."""

  def __init__(
    self,
    data: Listing,
    positions: dict[str, np.ndarray],
    **batching: Unpack[Batching],
  ):
    super().__init__(data, positions, **batching)
    self._train, self._test = data.train, data.test

  def batches(self, first_step: int) -> Iterator[core.Batch]:
    mask = np.ones(self.batch_size, bool)
    rows = ((self.order(step), mask) for step in itertools.count(first_step))
    return self._stream(self._train, rows, self.batch_size)

  def evaluation(self, split: str) -> Iterator[core.Batch]:
    files = self._test if split == "test" else self._train
    rows = self._evaluation_rows(split)
    return self._stream(files, rows, self.eval_batch_size)

  def _stream(
    self,
    files: Files,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    size: int,
  ) -> Iterator[core.Batch]:
    slots = local_slots(self._mesh, size)

    # One by one on a disk, so that no thread waits for the pictures of another.
    first = files.figures[0].picture if files.figures else None
    step = 1 if isinstance(first, pathlib.Path) else images.TOGETHER

    def cut(rows: np.ndarray) -> np.ndarray:
      figures = [files.figures[row] for row in rows]
      return pictures.windows(figures, self.info)

    with futures.ThreadPoolExecutor(host.cores()) as pool:
      waiting: list[Any] = []
      for rows, mask in batches:
        rows, mask = rows[slots], mask[slots]
        reading = [
          pool.submit(cut, rows[i : i + step])
          for i in range(0, len(rows), step)
        ]
        waiting.append((rows, mask, reading))
        if len(waiting) > _AHEAD:
          yield self._placed(files, size, *waiting.pop(0))
      for batch in waiting:
        yield self._placed(files, size, *batch)

  def _placed(self, files, size, rows, mask, reading) -> core.Batch:
    image: Any = np.concatenate([future.result() for future in reading])
    batch = core.Batch(
      image=image,
      target=jax.tree.map(lambda leaf: leaf[rows], files.targets),
      index=rows,
      mask=mask,
    )
    return to_devices(batch, self._mesh, size)
