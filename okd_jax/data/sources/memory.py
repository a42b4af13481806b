"""Data sets that fit on the device, where batches are gathered, as uint8."""

from collections.abc import Iterator
import functools
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import core
from okd_jax.data.info import HostData
from okd_jax.data.sources.flat import Flat
from okd_jax.data.sources.source import Batching, Source
from okd_jax.devices import mesh as mesh_lib


class MemorySource(Source):
  """Holds the whole data set on every device.

  A training loop may gather batches itself, inside a scanned step:
  `images.take(order(step))`.

  Attributes:
    images: the N images of the publisher's training split, uint8.
    labels: int32 [N], or another tree of [N, ...]: what is to be predicted.
  """

  def __init__(
    self,
    data: HostData,
    positions: dict[str, np.ndarray],
    **batching: Unpack[Batching],
  ):
    super().__init__(data, positions, **batching)
    self.images = jax.tree.map(self._replicate, Flat.of(data.train.images))
    self.labels = jax.tree.map(self._replicate, data.train.predicted)
    self._test = (
      jax.tree.map(self._replicate, Flat.of(data.test.images)),
      jax.tree.map(self._replicate, data.test.predicted),
    )

  def batches(self, first_step: int) -> Iterator[core.Batch]:
    step = first_step
    mask = np.ones(self.batch_size, bool)
    while True:
      yield self._gather(self.images, self.labels, self.order(step), mask)
      step += 1

  def evaluation(self, split: str) -> Iterator[core.Batch]:
    images, labels = (
      self._test if split == "test" else (self.images, self.labels)
    )
    for rows, mask in self._evaluation_rows(split):
      yield self._gather(images, labels, rows, mask)

  def _gather(self, images, labels, rows, mask) -> core.Batch:
    return _take(
      images,
      labels,
      self._replicate(rows),
      self._replicate(mask),
      mesh=self._mesh,
    )

  def _replicate(self, x: np.ndarray) -> jax.Array:
    if self._mesh is None:
      return jax.device_put(x)
    return jax.make_array_from_process_local_data(
      mesh_lib.sharding(self._mesh), x, x.shape
    )


@functools.partial(jax.jit, static_argnames="mesh")
def _take(images, labels, rows, mask, *, mesh):
  batch = core.Batch(
    image=images.take(rows),
    target=jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), labels),
    index=rows,
    mask=mask,
  )
  if mesh is None:
    return batch
  return jax.lax.with_sharding_constraint(
    batch, mesh_lib.sharding(mesh, mesh_lib.DATA)
  )
