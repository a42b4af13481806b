"""What stays fixed during a run: group, method, task and schedule."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from okd_jax import schedules
from okd_jax.core import (
  Array,
  Batch,
  check_hyperparameters,
  Context,
  Method,
  Outputs,
)
from okd_jax.errors import ConfigError
from okd_jax.groups import Group, once
from okd_jax.tasks.task import Task
from okd_jax.training import given, optim, schedule as schedule_lib
from okd_jax.training.clock import Clock, require_count
from okd_jax.training.schedule import MULTISTEP, Schedule

# Memory of examples has a multiple of this many rows: the same shape on every
# mesh, and one that divides among the devices of most.
_ROWS = 128


@dataclasses.dataclass(frozen=True)
class Setup:
  """Everything that does not change from one training step to the next.

  Attributes:
    peers: the group.
    method: turns the group's outputs into loss terms.
    task: what targets and figures mean, and how images are augmented.
    optimizer: any transformation of optax that needs only gradients and
      parameters. If its update takes extra arguments, it gets the loss as
      `value`, and `learning_rate` if that is known.
    batch_size: number B of examples in a batch, over all devices.
    train_size: examples seen in one epoch.
    epochs: length of the run; your own training loop may have any length below
      2**31 examples.
    learning_rate: function of the 0-based step, like the schedules of optax; it
      is reported and given to the optimiser. None if the optimiser has its own.
    rampup_epochs: epochs until ramped terms have their full weight.
    rampup_per_step: whether the ramp-up advances every step, not every epoch.
    num_positions: upper limit of `Batch.index` in training, not included;
      `train_size` by default. Only methods that remember something of each
      example need it.
    accumulate: number of parts of a batch that are computed one after another
      and whose gradients are averaged before the update; it must divide a
      device's share of the batch.
    ema_decay: decay of averaged peers and method variables, which are then
      evaluated and deployed; None keeps none unless the method needs them.
    teacher: frozen networks for methods that need them.
    teacher_example: shapes of the outputs of these networks for one example, if
      the networks are not given; see `okd_jax.training.targets`.

  Raises:
    ConfigError: if a part is of another kind, such as a class for an instance,
      if a number or a hyperparameter of the method is out of range, if the
      method names a peer that the group does not have, is for another task, or
      compares peers that see different mixtures.
  """

  peers: Group
  method: Method
  task: Task
  optimizer: optax.GradientTransformation
  batch_size: int
  train_size: int
  epochs: int = 1
  learning_rate: Callable[[Array], float | Array] | None = None
  rampup_epochs: float = 0.0
  rampup_per_step: bool = False
  num_positions: int | None = None
  accumulate: int = 1
  ema_decay: float | None = None
  teacher: Group | None = None
  teacher_example: Outputs | None = None

  def __post_init__(self) -> None:
    given.check(self)
    check_hyperparameters(self.method)
    given.check_peers(self.method, self.peers.num_peers)
    self._check_numbers()
    require_task(self.task.name, self.method)
    require_one_mixture(self.task.per_peer, self.method)

  def _check_numbers(self) -> None:
    _ = self.clock  # which refuses three of them
    require_count("accumulate", self.accumulate)
    if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
      raise ConfigError(
        f"ema_decay={self.ema_decay!r} must be at least 0 and below 1, or None."
      )
    if not 0 <= self.rampup_epochs < math.inf:
      raise ConfigError(
        f"rampup_epochs={self.rampup_epochs!r} must be a finite number of at "
        "least 0; 0 switches the ramp-up off."
      )
    require_one_average(self.ema_decay, self.method)

  @property
  def mesh(self) -> Mesh:
    """The devices."""
    return self.peers.mesh

  @property
  def leader(self) -> int:
    """Index of the peer that is deployed, counted from 0."""
    return range(self.peers.num_peers)[self.method.leader]

  @property
  def image_dtype(self) -> Any:
    """Dtype of the images that networks see."""
    return self.task.blank(1).image.dtype

  @property
  def average_decay(self) -> float | None:
    """Decay of the averages that are kept; None if there are none."""
    asked = self.method.needs.ema_decay
    return self.ema_decay if asked is None else asked

  @property
  def has_views(self) -> bool:
    """Whether each peer has a view of its own."""
    return self.method.needs.views or self.task.per_peer

  @property
  def num_examples(self) -> int:
    """Rows of the memory of examples: `num_positions`, rounded up."""
    return -(-(self.num_positions or self.train_size) // _ROWS) * _ROWS

  @property
  def clock(self) -> Clock:
    """Converts steps to epochs."""
    return Clock(self.batch_size, self.train_size, self.epochs)

  @property
  def total_steps(self) -> int:
    """Steps until every example is seen `epochs` times, rounded up."""
    return self.clock.total_steps

  def context(
    self,
    step: Array,
    key: Array,
    *,
    train: bool,
    train_labels: Array | None = None,
  ) -> Context:
    """What the method may know at a step."""
    if self.rampup_per_step:
      epoch = self.clock.time(step)
    else:
      epoch = self.clock.epoch(step).astype(jnp.float32)
    return Context(
      epoch=epoch,
      step=step,
      rampup=jnp.asarray(schedules.rampup(epoch, self.rampup_epochs)),
      key=key,
      num_examples=self.num_examples,
      train=train,
      train_labels=train_labels,
    )

  def augment(self, batch: Batch, key: Array) -> Batch:
    """Augments a batch, with one view a peer if the method needs views."""
    num_views = self.peers.num_peers if self.has_views else None
    return self.task.augment(batch, key, num_views=num_views, mesh=self.mesh)

  def example_images(self) -> Array:
    """One blank image; only its shape matters."""
    return self.task.blank(1).image


def require_task(name: str, method: Method) -> None:
  """Raises ConfigError if a method is not for the task of that name."""
  if name not in method.tasks:
    raise ConfigError(
      f"method '{_name(method)}' is for the task '{' or '.join(method.tasks)}',"
      f" and the data are for '{name}'; choose another method or other data."
    )


def require_one_average(ema_decay: float | None, method: Method) -> None:
  """Raises ConfigError if averages are set although the method has its own."""
  own = method.needs.ema_decay
  if ema_decay is not None and own is not None:
    raise ConfigError(
      f"config.ema_decay={ema_decay}: method '{_name(method)}' keeps averages "
      f"of its own, with a decay of {own}; leave it out."
    )


def require_one_mixture(per_peer: bool, method: Method) -> None:
  """Raises ConfigError if compared peers would see different mixtures."""
  if per_peer and not method.alone:
    raise ConfigError(
      "config.augment.mix_per_peer=True: this method compares what peers or "
      "teachers say of one picture, so all must see the same mixture; set it "
      "to False."
    )


def _name(method: Method) -> str:
  return type(method).__module__.rpartition(".")[2]


def with_optim(
  settings: optim.Optim,
  schedule: Schedule = MULTISTEP,
  *,
  peers: Group,
  method: Method,
  batch_size: int,
  train_size: int,
  epochs: int,
  **others: Any,
) -> Setup:
  """Makes a setup with one of our optimisers; by default with the papers'.

  Args:
    settings: settings of the optimiser; the method may override some.
    schedule: schedule of the learning rate.
    peers: as in `Setup`.
    method: as in `Setup`.
    batch_size: as in `Setup`.
    train_size: as in `Setup`.
    epochs: as in `Setup`; the schedule depends on it.
    **others: other fields of `Setup`.

  Raises:
    ConfigError: if the optimiser or the schedule cannot be made.
  """
  return Setup(
    peers=peers,
    method=method,
    batch_size=batch_size,
    train_size=train_size,
    epochs=epochs,
    optimizer=_optimizer(
      settings,
      tuple(
        (prefix, tuple(changes.items()))
        for prefix, changes in method.optimizer_overrides.items()
      ),
      ("method/", *(f"peers/{prefix}" for prefix in peers.shared)),
    ),
    learning_rate=_learning_rate(
      settings, schedule, Clock(batch_size, train_size, epochs)
    ),
    **others,
  )


# Two functions are equal only if they are the same object. These are kept, so
# that setups of equal settings are equal and their compiled programs are found.


@once.by_value
def _optimizer(
  settings: optim.Optim,
  overrides: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...],
  shared: tuple[str, ...],
) -> optax.GradientTransformation:
  by_prefix = {prefix: dict(changes) for prefix, changes in overrides}
  return optim.make(settings, by_prefix, shared)


@once.by_value
def _learning_rate(
  settings: optim.Optim, schedule: Schedule, clock: Clock
) -> Callable[[Array], Array]:
  return schedule_lib.make(
    schedule,
    clock,
    base=settings.learning_rate,
    drops=settings.drops,
    factor=settings.factor,
  )


def initial_key(seed: int) -> Array:
  """The random key of a run for its initial values."""
  # Programs that draw many arrays compile three times faster with "rbg".
  return jax.random.key(seed, impl="rbg")


def steps_key(seed: int) -> Array:
  """The random key of a run for its steps."""
  # What "rbg" draws for many keys at once depends on which, and so on the mesh.
  return jax.random.key(seed, impl="threefry2x32")
