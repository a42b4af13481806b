"""What stays fixed during a run: the group, the method, the schedule."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from okd_jax import schedules
from okd_jax.core import Array, Context, Method, Outputs
from okd_jax.data.augment import augment, normalize
from okd_jax.data.info import DataInfo
from okd_jax.groups import Group
from okd_jax.training import optim


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Everything that the training step takes as given.

  Attributes:
    peers: the group.
    method: turns the group's outputs into loss terms.
    sgd: optimiser settings and learning rate schedule.
    info: shape and normalisation of the images.
    epochs: length of the run.
    batch_size: B, over all devices.
    train_size: examples seen in one epoch.
    rampup_epochs: epochs until ramped terms have their full weight.
    rampup_per_step: move the ramp-up every step, not every epoch.
    pad_mode: how images are padded before the crop, "constant" or "reflect".
    teacher: frozen networks for methods that need them.
    teacher_example: shapes of what they say about one example, where they are
      not at hand; see `okd_jax.training.targets`.
    image_dtype: dtype of augmented images.
  """

  peers: Group
  method: Method
  sgd: optim.Sgd
  info: DataInfo
  epochs: int
  batch_size: int
  train_size: int
  rampup_epochs: float
  rampup_per_step: bool = False
  pad_mode: str = "constant"
  teacher: Group | None = None
  teacher_example: Outputs | None = None
  image_dtype: Any = jnp.float32

  @property
  def mesh(self) -> Mesh:
    """The devices."""
    return self.peers.mesh

  @functools.cached_property
  def optimizer(self) -> optax.GradientTransformationExtraArgs:
    """The optimiser, with the settings that the method overrides."""
    return optim.make(self.sgd, self.method.optimizer_overrides)

  @property
  def steps_per_epoch(self) -> int:
    """Steps that begin in an epoch, rounded up."""
    return -(-self.train_size // self.batch_size)

  @property
  def total_steps(self) -> int:
    """Steps until every example was seen `epochs` times, rounded up."""
    return self.first_step(self.epochs)

  def first_step(self, epoch: int) -> int:
    """The first step that begins in a 0-based epoch."""
    return -(-epoch * self.train_size // self.batch_size)

  def epoch(self, step: Array) -> Array:
    """The 0-based epoch that a step begins in: examples seen // N."""
    return step * self.batch_size // self.train_size

  def learning_rate(self, step: Array) -> float | Array:
    """The learning rate of a step."""
    return self.sgd.rate(self.epoch(step), self.epochs)

  def context(self, step: Array, key: Array, *, train: bool) -> Context:
    """What the method may know at a step."""
    epoch = self.epoch(step).astype(jnp.float32)
    if self.rampup_per_step:
      # Integer arithmetic first: float32 cannot hold the count of examples.
      seen = step * self.batch_size % self.train_size
      epoch += seen.astype(jnp.float32) / self.train_size
    return Context(
      epoch=epoch,
      step=step,
      rampup=jnp.asarray(schedules.rampup(epoch, self.rampup_epochs)),
      key=key,
      train=train,
    )

  def augment(self, images: Array, key: Array) -> Array:
    """Augments a batch, with one view a peer if the method needs views."""
    return augment(
      images,
      key,
      info=self.info,
      num_views=self.peers.num_peers if self.method.needs.views else None,
      pad_mode=self.pad_mode,
      dtype=self.image_dtype,
      mesh=self.mesh,
    )

  def normalize(self, images: Array) -> Array:
    """Prepares a batch for evaluation."""
    return normalize(images, self.info, self.image_dtype)

  def example_images(self) -> Array:
    """One blank image, for its shape."""
    return jnp.zeros((1, *self.info.image_shape), self.image_dtype)


def random_keys(seed: int) -> tuple[Array, Array]:
  """The keys of a run: of its initial values, and of its steps."""
  # Programs that draw many arrays compile three times faster with "rbg".
  return jax.random.key(seed, impl="rbg"), jax.random.key(seed)
