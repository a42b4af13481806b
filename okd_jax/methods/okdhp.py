"""OKDHP: online distillation for human pose estimation."""

from flax import linen as nn
import jax.numpy as jnp

from okd_jax import core, layers, losses
from okd_jax.methods import _heat_maps

# Sizes of the convolutions that look at the shared features.
_SIZES = (3, 5, 7)
# The hidden layer is narrower than the features by this factor.
_NARROWER = 4


class Method(core.Method):
  """Branches of stacked hourglasses learn from a weighted mean of all.

  Li et al., "Online Knowledge Distillation for Efficient Pose Estimation", ICCV
  2021. The feature aggregation unit looks at the features that all stacks start
  from and weighs the branches for each image and joint; the weighted mean of
  their last heat maps is the teacher. Every output, including those of shared
  and of intermediate stacks, learns from the target and from the teacher. The
  default weights are those of the loss; the published script has kd_weight=2.

  Attributes:
    ensemble_weight: weight of the teacher's distance from the target.
    kd_weight: weight of the distillation, which the ramp-up multiplies.
    divide_by_pixels: whether the distillation is divided by the number of
      pixels, as in the published code, which makes it tiny.
    temperature: temperature of the distillation; the published code has none.
    stop_gradient: whether the teacher is treated as a constant; the published
      code lets gradients through.
  """

  ensemble_weight: float = core.at_least(1.0, 0)
  kd_weight: float = core.at_least(1.0, 0)
  divide_by_pixels: bool = core.flag(True)
  temperature: float = core.positive(1.0)
  stop_gradient: bool = core.flag(True)

  @property
  def task(self):
    return _heat_maps.TASK

  @property
  def min_peers(self):
    return 2

  @property
  def joint(self):
    # Through the teacher, each peer is trained by the others' terms.
    return not self.stop_gradient

  @property
  def needs(self):
    # Separate networks have no features that all stacks start from.
    return core.Needs(kind="branches")

  @property
  def deployed_as(self):
    return "first branch"

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    core.require_peers("okdhp", outputs, self.min_peers)
    peers = _heat_maps.of_peers("okdhp", outputs)
    features = next(stage[0] for stage in outputs.maps if stage[0] is not None)
    attention = Aggregation(
      len(peers), outputs.logits.shape[-1], name="aggregation"
    )(layers.at_least_float32(features), train=ctx.train)
    ensemble = jnp.einsum(
      "btj,tbhwj->bhwj", attention, outputs.logits, precision="highest"
    )
    num_shared = max(outputs.num_shared - 1, 0)
    own = [maps[num_shared:] for maps in peers]
    every = [*peers[0][:num_shared], *(heat for maps in own for heat in maps)]
    terms = losses.okdhp(
      every,
      ensemble,
      batch.target["maps"],
      batch.target["weight"],
      ensemble_weight=self.ensemble_weight,
      kd_weight=self.kd_weight * ctx.rampup,
      divide_by_pixels=self.divide_by_pixels,
      temperature=self.temperature,
      stop_gradient=self.stop_gradient,
    )
    summed = {"ensemble_mse": terms["ensemble_mse"]}
    for name in ("mse", "kd"):
      rows, first = terms[f"output_{name}"], num_shared
      if num_shared:
        summed[f"shared_{name}"] = jnp.sum(rows[:num_shared], 0)
      each = []
      for maps in own:
        each.append(jnp.sum(rows[first : first + len(maps)], 0))
        first += len(maps)
      summed[f"peer_{name}"] = jnp.stack(each)
    return core.MethodOutput(
      summed,
      {"aggregated": ensemble},
      {"aggregation": jnp.mean(attention, (0, 2))},
    )


class Aggregation(nn.Module):
  """The feature aggregation unit: weights of the branches for each joint.

  As in the published code, see `okd_jax.losses.feature_aggregation`, with
  running averages in evaluation.

  Attributes:
    num_branches: number T of branches.
    num_joints: number J of joints.
  """

  num_branches: int
  num_joints: int

  @nn.compact
  def __call__(self, x, *, train: bool):
    """Weights [B, T, J] from features [B, h, w, D]."""
    width = x.shape[-1]
    views = []
    for size in _SIZES:
      y = layers.conv(
        width,
        size,
        kernel_init=layers.uniform_fan_in,
        use_bias=True,
        bias_init=layers.uniform_bias(size * size * width),
        name=f"conv{size}",
      )(x)
      norm = layers.BatchNorm(name=f"conv{size}_bn")
      views.append(nn.relu(norm(y, use_running_average=not train)))
    pooled = jnp.mean(sum(views[1:], views[0]), axis=(1, 2))
    hidden = layers.linear(pooled, width // _NARROWER, name="hidden")
    logits = [
      layers.linear(hidden, self.num_joints, name=f"branch{i}")
      for i in range(self.num_branches)
    ]
    return nn.softmax(jnp.stack(logits, 1), axis=1)
