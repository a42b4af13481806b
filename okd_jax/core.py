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
  """What the networks of a group say about a batch.

  A single network returns the same class without the peer axis.

  Attributes:
    logits: [P, B, C]; of another task than classification [P, B, *out].
    features: [P, B, D], the exact vectors that enter the classifiers; a tuple
      of [B, D_i] where widths differ.
    maps: one entry a stage, [P, B, H, W, D] each, or a tuple of P arrays.
    trunk: [B, E], the shared trunk's output averaged over positions; [P, B, E]
      with one view a peer; None for separate networks.
    num_shared: of the maps, how many are the trunk's and the same for all.
    all_maps: of networks of different depth all maps are kept; stages are
      aligned at the deepest, and have None where a network has none.
    ema: the same from the averaged peers, without gradient; None unless the
      method needs them.
    teacher: the same from frozen teachers, without gradient; likewise. In
      evaluation both are of the same shapes as in training and filled with
      NaN, as terms are not used there: predictions must not read them.
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
    terms: weighted and unreduced, [Q, B] with Q <= P, or [B].
    predictions: logits [B, C] of group predictions by name, for example a
      gated ensemble.
    summaries: small arrays worth a look, averaged over examples, for example
      how much the peers attend to each other [P, P].
    paused: bool [P], peers that this step leaves as they are, whatever the
      terms say: no gradient, decay or momentum moves them. What all peers
      share is trained. None trains everybody.
  """

  terms: dict[str, Array]
  predictions: dict[str, Array] = struct.field(default_factory=dict)
  summaries: dict[str, Array] = struct.field(default_factory=dict)
  paused: Array | None = None


@dataclasses.dataclass(frozen=True)
class Needs:
  """What costs compute or data and so must be asked for.

  Attributes:
    views: one augmented view per peer instead of one shared view.
    ema_decay: keep averaged peers and method variables with this decay, and
      pass the batch through them; None keeps none.
    teacher: outputs of frozen teachers.
    held_out: fraction of the training data kept for `Method.refresh`.
    trunk_gradient: which gradient of branches enters the shared trunk: the
      "sum" of theirs, their "mean", or that of the "first" branch.
    kind: the only kind of group that will do, "replicas" or "branches"; None
      takes both.
    per_example: collections of the method whose arrays have a leading axis of
      `Context.num_examples`. They are split over the devices of the batch, are
      addressed by `Batch.index`, belong to checkpoints and not to averages, and
      must not be read in evaluation, where positions are those of another
      split.
    train_labels: the labels of all training examples, on every device.
    raw_maps: the last map as the last stage gave it, not yet normalised.
  """

  views: bool = False
  ema_decay: float | None = None
  teacher: bool = False
  held_out: float = 0.0
  trunk_gradient: str = "sum"
  kind: str | None = None
  per_example: tuple[str, ...] = ()
  train_labels: bool = False
  raw_maps: bool = False


class Method(nn.Module):
  """Abstract base of all methods; every subclass is final.

  What is learned (attention, gates, fusion heads) is in `params`; what is
  remembered (statistics, weights refreshed once an epoch) is in the other
  collections; hyperparameters are the dataclass fields, each with its rule:
  `temperature: float = core.positive(3.0)`.
  """

  @property
  def needs(self) -> Needs:
    """What the method needs beyond one pass of the peers."""
    return Needs()

  @property
  def task(self) -> str:
    """The task that the terms are for, a module of `okd_jax.tasks`."""
    return "classification"

  @property
  def tasks(self) -> tuple[str, ...]:
    """All tasks that the terms are for."""
    return (self.task,)

  @property
  def leader(self) -> int:
    """Index of the peer to deploy; negative counts from the last."""
    return 0

  @property
  def joint(self) -> bool:
    """Whether a term with a row a peer trains a peer by another's row.

    Terms [B] belong to the group and may train all peers without it.
    """
    return False

  @property
  def alone(self) -> bool:
    """Whether no peer learns from another, or from a teacher.

    Then every peer may be shown other mixed pictures.
    """
    return False

  @property
  def published_kind(self) -> str | None:
    """The kind of group that the paper trains, for comparisons; None: any."""
    return self.needs.kind

  @property
  def deployed_as(self) -> str:
    """What tables call the network to deploy."""
    return "deployed network"

  @property
  def compared(self) -> str:
    """Whose figure papers report: "deployed" or "peers_mean"."""
    return "deployed"

  def settings_compared(self, net: str, teacher_net: str) -> dict[str, Any]:
    """What comparisons set for it by path, for a network and a larger one."""
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
    """Raises ConfigError if these `Context.train_labels` will not do."""

  def turns(self, num_peers: int) -> tuple[int | None, ...]:
    """One update for all peers, (None,), or one after another: (0, 1, ...)."""
    del num_peers
    return (None,)

  @property
  def pauses_memory(self) -> bool:
    """Whether a paused peer's batch statistics stay as they are, too."""
    return False

  def refresh(self, logits: Array, labels: Array) -> Variables:
    """Returns new state from held-out logits [P, N, C] and labels [N].

    Called once at the start of every epoch but the first if `needs.held_out`
    is positive.
    The result replaces collections of the method's state by name.
    """
    raise NotImplementedError

  def __call__(
    self, outputs: Outputs, batch: Batch, ctx: Context
  ) -> MethodOutput:
    raise NotImplementedError


def hyperparameters(method: Method | type[Method]) -> list[Any]:
  """The fields of a method that are its own, not those of linen modules."""
  return [
    field
    for field in dataclasses.fields(method)
    if field.name not in ("parent", "name")
  ]


def check_hyperparameters(method: Method) -> None:
  """Raises ConfigError if a hyperparameter breaks its rule."""
  name = type(method).__module__.rpartition(".")[2]
  for field in hyperparameters(method):
    check_value(field, getattr(method, field.name), name)


def objective(terms: dict[str, Array]) -> Array:
  """Sums, over terms and peers, the mean over examples.

  Args:
    terms: of the method, at least one, [B] or [P, B].

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
