"""The core abstraction: a method maps the outputs of a group to loss terms.

    images --peers--> Outputs --method--> terms --objective--> scalar

This and `okd_jax.batch` are all that the author of a method has to read. Shape
letters mean the same thing everywhere: P peers, B examples, C classes, D
feature width, E width of the shared trunk, H and W height and width.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn, struct
import jax.numpy as jnp

from okd_jax.batch import Array as Array, Batch as Batch, Context as Context
from okd_jax.errors import ConfigError
from okd_jax.rules import (
  at_least as at_least,
  between as between,
  check_value,
  flag as flag,
  one_of as one_of,
  positive as positive,
)

# One array with a leading peer axis, or one array a peer where shapes differ.
PerPeer = Array | tuple[Array, ...]
Variables = dict[str, Any]  # linen: {collection: nested dict of arrays}


@struct.dataclass
class Outputs:
  """The outputs of the networks of a group for a batch.

  A single network returns the same class without the peer axis.

  Attributes:
    logits: [P, B, C]; [P, B, *out] for tasks other than classification.
    features: [P, B, D], the exact vectors that enter the classifiers; a tuple
      of [B, D_i] where widths differ.
    maps: one entry per stage, [P, B, H, W, D] each, or a tuple of P arrays.
    trunk: [B, E], the shared trunk's output averaged over positions; [P, B, E]
      with one view per peer; None for separate networks.
    num_shared: number of maps that come from the trunk, the same for all peers.
    all_maps: whether networks of different depth keep all maps; stages are
      then aligned at the deepest, with None where a network has no map.
    ema: outputs of the averaged peers, without gradient; None unless the
      method needs them.
    teacher: outputs of frozen teachers, without gradient; likewise. In
      evaluation, where terms are not used, `ema` and `teacher` have the shapes
      of training and are filled with NaN: predictions must not read them.
  """

  logits: Array
  features: PerPeer
  maps: tuple[PerPeer, ...] = ()
  trunk: Array | None = None
  num_shared: int = struct.field(pytree_node=False, default=0)
  all_maps: bool = struct.field(pytree_node=False, default=False)
  ema: "Outputs | None" = None
  teacher: "Outputs | None" = None


@struct.dataclass
class MethodOutput:
  """Loss terms and what the group as a whole predicts.

  Attributes:
    terms: loss terms by name, weighted and unreduced, [Q, B] with Q <= P, or
      [B].
    predictions: logits [B, C] of group predictions by name, for example a
      gated ensemble.
    summaries: small arrays to be logged, averaged over examples, for example
      how much the peers attend to each other [P, P].
    paused: bool [P], peers that this step does not change, whatever the terms:
      no gradient, weight decay or momentum is applied. Parameters that all
      peers share are still trained. None trains every peer.
  """

  terms: dict[str, Array]
  predictions: dict[str, Array] = struct.field(default_factory=dict)
  summaries: dict[str, Array] = struct.field(default_factory=dict)
  paused: Array | None = None


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a method must request, because it costs computation or data.

  Attributes:
    views: one augmented view per peer instead of one shared view.
    ema_decay: decay of averaged peers and method variables, through which the
      batch is passed as well; None keeps no averages.
    average_statistics: whether the averaged peers have averaged statistics, and
      pass the batch as in evaluation; otherwise they pass it as in training,
      and have statistics of their own.
    teacher: outputs of frozen teachers.
    held_out: fraction of the training data kept for `Method.refresh`.
    trunk_gradient: which gradient of branches enters the shared trunk: the
      "sum" of theirs, their "mean", or that of the "first" branch.
    kind: the only kind of group that is possible, "replicas" or "branches";
      None allows both.
    per_example: collections of the method whose arrays have a leading axis of
      `Context.num_examples`. They are split over the devices of the batch,
      where their number divides that axis. They are indexed by `Batch.index`,
      are in checkpoints but not in averages, and must not be read in
      evaluation, where the indices are those of another split.
    train_labels: the labels of all training examples, on every device.
    raw_maps: the last map as the last stage returns it, before normalisation.
  """

  views: bool = False
  ema_decay: float | None = None
  average_statistics: bool = False
  teacher: bool = False
  held_out: float = 0.0
  trunk_gradient: str = "sum"
  kind: str | None = None
  per_example: tuple[str, ...] = ()
  train_labels: bool = False
  raw_maps: bool = False


class Method(nn.Module):
  """Abstract base of all methods; every subclass is final.

  Learned parameters (attention, gates, fusion heads) are in `params`; other
  state (statistics, weights refreshed once an epoch) is in the other
  collections; hyperparameters are the dataclass fields, each with its rule:
  `temperature: float = core.positive(3.0)`.
  """

  @property
  def needs(self) -> Needs:
    """What the method needs beyond one pass of the peers."""
    return Needs()

  @property
  def task(self) -> str:
    """The task that the terms are made for, a module of `okd_jax.tasks`."""
    return "classification"

  @property
  def tasks(self) -> tuple[str, ...]:
    """All tasks that the terms can be used for."""
    return (self.task,)

  @property
  def leader(self) -> int:
    """Index of the peer to deploy; negative counts from the last."""
    return 0

  @property
  def joint(self) -> bool:
    """Whether one peer's row of a term also trains other peers.

    Terms [B] belong to the group; they may train all peers in any case.
    """
    return False

  @property
  def alone(self) -> bool:
    """Whether no peer learns from another, or from a teacher.

    Then every peer may see mixed pictures of its own.
    """
    return False

  @property
  def published_kind(self) -> str | None:
    """The kind of group in the paper, for comparisons; None means any."""
    return self.needs.kind

  @property
  def deployed_as(self) -> str:
    """Name of the deployed network in tables."""
    return "deployed network"

  @property
  def compared(self) -> str:
    """Which figure papers report: "deployed" or "peers_mean"."""
    return "deployed"

  def settings_compared(self, net: str, teacher_net: str) -> dict[str, Any]:
    """Settings by path in comparisons, for a network and a larger one."""
    del net, teacher_net
    return {}

  @property
  def min_peers(self) -> int:
    """The smallest group that the method makes sense for."""
    return 1

  @property
  def optimizer_overrides(self) -> Mapping[str, Mapping[str, Any]]:
    """Settings by path prefix, see `okd_jax.training.optim.make`."""
    return {}

  def members(self, num_peers: int) -> tuple[int, ...]:
    """Peers that form the ensemble, the mean of peers and the diversity."""
    return tuple(range(num_peers))

  def check_labels(self, labels: Any) -> None:
    """Raises ConfigError if these `Context.train_labels` are unsuitable."""

  def turns(self, num_peers: int) -> tuple[int | None, ...]:
    """(None,) updates all peers at once, (0, 1, ...) one after another."""
    del num_peers
    return (None,)

  @property
  def pauses_memory(self) -> bool:
    """Whether a paused peer's batch statistics stay unchanged, too."""
    return False

  def refresh(self, logits: Array, labels: Array) -> Variables:
    """Returns new state from held-out logits [P, N, C] and labels [N].

    It is called at the start of every epoch but the first if `needs.held_out`
    is positive. The result replaces collections of the method's state by name.
    """
    raise NotImplementedError

  def __call__(
    self, outputs: Outputs, batch: Batch, ctx: Context
  ) -> MethodOutput:
    raise NotImplementedError


def hyperparameters(method: Method | type[Method]) -> list[Any]:
  """The fields of a method, without those of every linen module."""
  of_linen = ("parent", "name")
  return [f for f in dataclasses.fields(method) if f.name not in of_linen]


def check_hyperparameters(method: Method) -> None:
  """Raises ConfigError if a hyperparameter breaks its rule."""
  name = type(method).__module__.rpartition(".")[2]
  for field in hyperparameters(method):
    check_value(field, getattr(method, field.name), name)


def objective(terms: dict[str, Array]) -> Array:
  """Sums, over terms and peers, the mean over examples.

  Args:
    terms: terms of the method, at least one, [B] or [P, B].

  Raises:
    ConfigError: if there is no term.
  """
  if not terms:
    raise ConfigError(
      "objective: terms={} must hold a loss term; return one from the method."
    )
  means = [jnp.sum(jnp.mean(t, -1)) for t in terms.values()]
  return jnp.sum(jnp.stack(means))


def require_peers(name: str, outputs: Outputs, at_least: int) -> None:
  """Raises ConfigError unless the group has enough peers."""
  num_peers = outputs.logits.shape[0]
  if num_peers < at_least:
    raise ConfigError(
      f"method '{name}' got {num_peers} peer(s) and needs at least "
      f"{at_least}; raise config.peers.num_peers."
    )


def require_trunk(name: str, outputs: Outputs) -> Array:
  """Returns the shared trunk's output [B, E].

  Raises:
    ConfigError: if the peers share no trunk.
  """
  if outputs.trunk is None:
    raise ConfigError(
      f"method '{name}' reads the shared trunk, and these peers are separate "
      "networks; set config.peers.kind=branches."
    )
  return outputs.trunk


def require_maps(
  name: str, outputs: Outputs, at_least: int = 1
) -> tuple[PerPeer, ...]:
  """Returns the maps of the stages, the deepest one last.

  Raises:
    ConfigError: if the networks return fewer stages.
  """
  if len(outputs.maps) < at_least:
    raise ConfigError(
      f"method '{name}' reads the maps of {at_least} stage(s), and these "
      f"networks return {len(outputs.maps)}; return okd_jax.core.Outputs with "
      "maps from the network, or split it earlier."
    )
  return outputs.maps
