"""The convex combination of logits with the lowest cross-entropy.

A primal-dual interior-point method, batched over groups of examples that share
their weights, and of fixed length, so that it can be compiled once and sharded
over examples. Three choices make it reliable:

- It minimises logsumexp over the wrong classes of z_c - z_y instead of the
  cross-entropy. The minimiser is the same, but the objective does not become
  flat when the prediction is right and confident. If labels are probabilities
  y, it is logsumexp over all classes of z_c - sum_c y_c z_c, the cross-entropy
  itself; so it is if several examples share their weights, as the mean of such
  logarithms over examples has another minimiser.
- Large logits make that objective nearly piecewise linear, which defeats
  Newton steps, so it is sharpened step by step together with the barrier.
- The line search compares slopes, not values: near the optimum, rounding hides
  differences between values, but not those between slopes.
"""

import functools
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

  The mean over the N examples of each of G groups, which share their weights.

  Attributes:
    gaps: [G, P, N C] z_c - z_y of every peer minus the mean over peers, in
      units of the largest gap of the group.
    base: [G, N C] the mean over peers, in the same unit.
    wrong: bool [G, N, C] False at masked classes, which take no part; with one
      example in a group also at the true class.
    sharpness: [G] final sharpness, which is that unit.
  """

  gaps: Array
  base: Array
  wrong: Array
  sharpness: Array


class Iterate(typing.NamedTuple):
  """Weights [G, P], their multipliers [G, P], sharpness [G], barrier [G]."""

  weights: Array
  multipliers: Array
  sharpness: Array
  barrier: Array


def best_mixture(
  logits: Array, probs: Array, *, together: bool = False
) -> Array:
  """Returns the weights for logits [P, B, C] and labels [B, C].

  They are [B, P], or [1, P] if all examples share them (together).
  """
  solve = functools.partial(_solve, together=together)
  if not jax.sharding.get_abstract_mesh().explicit_axes:
    return solve(logits, probs)
  # The factorisation of matrices cannot be spread explicitly.
  examples = None if together else jax.typeof(logits).sharding.spec[1]
  spread = jax.sharding.PartitionSpec(examples, None)
  return jax.sharding.auto_axes(solve, out_sharding=spread)(logits, probs)


def _solve(logits: Array, probs: Array, *, together: bool) -> Array:
  problem = _pose(logits, probs, together)
  num_peers = logits.shape[0]
  # Made from the data, so that they are spread over devices as the data are.
  zeros = 0 * jnp.sum(problem.gaps, axis=2)
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


def _pose(logits, probs, together):
  masked = jnp.any(logits == -jnp.inf, axis=0)
  wrong = ~masked if together else (probs != 1) & ~masked
  # With one class left every mixture is the best.
  wrong |= ~jnp.any(wrong, axis=-1, keepdims=True)
  gaps = jnp.where(masked, 0, logits - mean_logit(logits, probs))
  # All examples in one group, or each in one of its own.
  if together:
    gaps, wrong = gaps.reshape(1, len(gaps), -1), wrong[None]
  else:
    gaps, wrong = jnp.moveaxis(gaps, 0, 1), wrong[:, None]
  base = jnp.mean(gaps, axis=1)
  gaps -= base[:, None]
  unit = jnp.max(jnp.abs(gaps), axis=(1, 2), initial=0)
  unit = jnp.where(unit > 0, unit, 1)
  return Problem(gaps / unit[:, None, None], base / unit[:, None], wrong, unit)


def _wrong_probs(problem, weights, sharpness):
  """Softmax over wrong classes by N, [..., G, N C] for weights [..., G, P]."""
  mixed = jnp.einsum(
    "...gp,gpc->...gc", weights, problem.gaps, precision=HIGHEST
  )
  logits = sharpness[:, None] * (problem.base + mixed)
  wrong = problem.wrong
  by_example = logits.reshape(*weights.shape[:-1], *wrong.shape[1:])
  probs = jax.nn.softmax(jnp.where(wrong, by_example, -jnp.inf))
  return probs.reshape(logits.shape) / wrong.shape[1]


def _step(problem: Problem, iterate: Iterate) -> Iterate:
  weights, multipliers, sharpness, barrier = iterate
  dtype = weights.dtype
  probs = _wrong_probs(problem, weights, sharpness)
  grad = jnp.einsum("gpc,gc->gp", problem.gaps, probs, precision=HIGHEST)
  curvature = sharpness[:, None, None] * _covariance(problem, probs, grad)
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


def _covariance(problem, probs, mean):
  """The mean of the covariances of a group's examples, [G, P, P]."""
  gaps, num_examples = problem.gaps, problem.wrong.shape[1]
  if num_examples == 1:  # its mean is known
    centred = gaps - mean[..., None]
  else:
    by_example = gaps.reshape(*gaps.shape[:2], *problem.wrong.shape[1:])
    shares = num_examples * probs.reshape(problem.wrong.shape)[:, None]
    means = jnp.sum(by_example * shares, -1, keepdims=True)
    centred = (by_example - means).reshape(gaps.shape)
  return jnp.einsum(
    "gpc,gqc,gc->gpq", centred, centred, probs, precision=HIGHEST
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
  """Largest step in [0, 1] that keeps values positive, [G]."""
  falling = move < 0
  limits = jnp.where(falling, -values / jnp.where(falling, move, -1), jnp.inf)
  return jnp.minimum(1.0, 0.99 * jnp.min(limits, axis=1))


def _slopes(problem, trials, move, sharpness, barrier):
  """Slope of the barrier function along the move at every trial, [k, G]."""
  probs = _wrong_probs(problem, trials, sharpness)
  rise = jnp.einsum("gp,gpc->gc", move, problem.gaps, precision=HIGHEST)
  return jnp.sum(probs * rise, axis=-1) - barrier * jnp.sum(
    move / trials, axis=-1
  )
