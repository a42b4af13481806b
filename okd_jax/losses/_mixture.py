"""The convex combination of logits with the lowest cross-entropy.

A primal-dual interior-point method, batched over examples and of fixed length,
so that it can be compiled once and sharded over examples. Three choices make
it reliable:

- It minimises logsumexp over the wrong classes of z_c - z_y instead of the
  cross-entropy. The minimiser is the same, but the objective does not become
  flat when the prediction is right and confident. If labels are probabilities
  y, it is logsumexp over all classes of z_c - sum_c y_c z_c, the cross-entropy
  itself.
- Large logits make that objective nearly piecewise linear, which defeats
  Newton steps, so it is sharpened step by step together with the barrier.
- The line search compares slopes, not values: near the optimum, rounding hides
  differences between values, but not those between slopes.
"""

import typing

import jax
import jax.numpy as jnp

from okd_jax.losses._inputs import Array
from okd_jax.losses._peers import HIGHEST

# Newton steps. 30 suffice up to a spread of logits of 100, 50 up to 10,000.
NUM_STEPS = 50
# Trial step lengths: the full step to the boundary down to a millionth of it.
STEP_FRACTIONS = tuple(0.35**k for k in range(14))


class Problem(typing.NamedTuple):
  """Minimise logsumexp_c(sharpness * (base + weights . gaps)) / sharpness.

  Attributes:
    gaps: [B, P, C] z_c - z_y of every peer minus the mean over peers, in units
      of the largest gap.
    base: [B, C] the mean over peers, in the same unit.
    wrong: bool [B, C] False at the true class and at masked ones, which take no
      part.
    sharpness: [B] final sharpness, which is that unit.
  """

  gaps: Array
  base: Array
  wrong: Array
  sharpness: Array


class Iterate(typing.NamedTuple):
  """Weights [B, P], their multipliers [B, P], sharpness [B], barrier [B]."""

  weights: Array
  multipliers: Array
  sharpness: Array
  barrier: Array


def best_mixture(logits: Array, probs: Array) -> Array:
  """Returns the weights [B, P] for logits [P, B, C] and labels [B, C]."""
  if not jax.sharding.get_abstract_mesh().explicit_axes:
    return _solve(logits, probs)
  # The factorisation of matrices cannot be spread explicitly.
  examples = jax.typeof(logits).sharding.spec[1]
  spread = jax.sharding.PartitionSpec(examples, None)
  return jax.sharding.auto_axes(_solve, out_sharding=spread)(logits, probs)


def _solve(logits: Array, probs: Array) -> Array:
  problem = _pose(jnp.moveaxis(logits, 0, 1), probs)
  num_peers = logits.shape[0]
  # Made from the data, so that they are spread over devices as the data are.
  zeros = 0 * problem.gaps[:, :, 0]
  barrier = zeros[:, 0] + 0.1
  weights = zeros + 1 / num_peers
  start = Iterate(
    weights,
    barrier[:, None] / weights,
    jnp.minimum(problem.sharpness, 4.0),
    barrier,
  )
  last = jax.lax.fori_loop(0, NUM_STEPS, lambda _, i: _step(problem, i), start)
  return last.weights


def mean_logit(logits: Array, probs: Array) -> Array:
  """The sum over classes of y_c z_c, [..., 1]; -inf is left out where y_c is 0.

  For one-hot labels it is exactly the logit of the true class.
  """
  absent = (probs == 0) & (logits == -jnp.inf)
  summands = probs * jnp.where(absent, 0, logits)
  return jnp.sum(summands, axis=-1, keepdims=True)


def _pose(logits, probs):
  masked = jnp.any(logits == -jnp.inf, axis=1)
  gaps = logits - mean_logit(logits, probs[:, None])
  gaps = jnp.where(masked[:, None], 0, gaps)
  base = jnp.mean(gaps, axis=1)
  gaps -= base[:, None]
  unit = jnp.max(jnp.abs(gaps), axis=(1, 2))
  unit = jnp.where(unit > 0, unit, 1)
  wrong = (probs != 1) & ~masked
  # With one class left every mixture is the best.
  wrong |= ~jnp.any(wrong, axis=1, keepdims=True)
  return Problem(gaps / unit[:, None, None], base / unit[:, None], wrong, unit)


def _wrong_probs(problem, weights, sharpness):
  """Softmax over the wrong classes, [..., B, C] for weights [..., B, P]."""
  mixed = jnp.einsum(
    "...bp,bpc->...bc", weights, problem.gaps, precision=HIGHEST
  )
  logits = sharpness[:, None] * (problem.base + mixed)
  return jax.nn.softmax(jnp.where(problem.wrong, logits, -jnp.inf))


def _step(problem: Problem, iterate: Iterate) -> Iterate:
  weights, multipliers, sharpness, barrier = iterate
  dtype = weights.dtype
  probs = _wrong_probs(problem, weights, sharpness)
  grad = jnp.einsum("bpc,bc->bp", problem.gaps, probs, precision=HIGHEST)
  curvature = sharpness[:, None, None] * _covariance(problem.gaps, probs, grad)
  pull = barrier[:, None] / weights

  move = _newton_move(curvature, multipliers / weights, pull - grad)
  change = pull - multipliers - multipliers / weights * move

  trials = jnp.asarray(STEP_FRACTIONS, dtype)[:, None]
  trials = trials * _to_boundary(weights, move)
  trials = weights + trials[..., None] * move
  slopes = _slopes(problem, trials, move, sharpness, barrier)
  best = jnp.argmin(jnp.abs(slopes), axis=0)
  weights = jnp.take_along_axis(trials, best[None, :, None], axis=0)[0]
  weights /= jnp.sum(weights, axis=1, keepdims=True)

  multipliers += _to_boundary(multipliers, change)[:, None] * change
  # Keeps the pair near the central path where the line search cuts the step.
  pull = barrier[:, None] / weights
  multipliers = jnp.clip(multipliers, 1e-3 * pull, 1e3 * pull)

  precision = float(jnp.finfo(dtype).eps)
  gain = jnp.sum(move * (barrier[:, None] / iterate.weights - grad), axis=1)
  centred = (gain * sharpness < 1) & (
    gain < 10 * barrier * weights.shape[1] + 30 * precision
  )
  final = sharpness >= problem.sharpness
  lower = jnp.maximum(barrier * jnp.where(final, 0.1, 0.25), precision**1.75)
  return Iterate(
    weights,
    multipliers,
    jnp.where(
      centred, jnp.minimum(4 * sharpness, problem.sharpness), sharpness
    ),
    jnp.where(centred, lower, barrier),
  )


def _covariance(gaps, probs, mean):
  centred = gaps - mean[..., None]
  return jnp.einsum(
    "bpc,bqc,bc->bpq", centred, centred, probs, precision=HIGHEST
  )


def _newton_move(curvature, diagonal, descent):
  """Solves for the move with sum zero."""
  precision = float(jnp.finfo(descent.dtype).eps)
  # The constant does not change a move of sum zero, and keeps the matrix
  # regular where the curvature vanishes along a face of the simplex.
  size = 1 + jnp.max(jnp.abs(curvature), axis=(1, 2), keepdims=True)
  diagonal += 8 * precision * size[:, 0]
  matrix = (
    curvature
    + size
    + diagonal[..., None] * jnp.eye(descent.shape[1], dtype=descent.dtype)
  )
  sides = jnp.stack([descent, jnp.ones_like(descent)], axis=-1)
  factor = jnp.linalg.cholesky(matrix)
  free, along = jnp.moveaxis(
    jax.scipy.linalg.cho_solve((factor, True), sides), -1, 0
  )
  level = jnp.sum(free, axis=1) / jnp.sum(along, axis=1)
  return free - level[:, None] * along


def _to_boundary(values, move):
  """Largest step in [0, 1] that keeps values positive, [B]."""
  falling = move < 0
  limits = jnp.where(falling, -values / jnp.where(falling, move, -1), jnp.inf)
  return jnp.minimum(1.0, 0.99 * jnp.min(limits, axis=1))


def _slopes(problem, trials, move, sharpness, barrier):
  """Slope of the barrier function along the move at every trial, [k, B]."""
  probs = _wrong_probs(problem, trials, sharpness)
  rise = jnp.einsum("bp,bpc->bc", move, problem.gaps, precision=HIGHEST)
  return jnp.sum(probs * rise, axis=-1) - barrier * jnp.sum(
    move / trials, axis=-1
  )
