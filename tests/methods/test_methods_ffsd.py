"""FFSD against a reading of its description in plain NumPy.

No vectors are published for it. The reading below follows the description
sentence by sentence, one example and one position at a time where that is
clearest, and shares no code with the package.
"""

import dataclasses
import functools
import math

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import core, methods
from okd_jax.errors import ConfigError
from okd_jax.training import optim

STUDENTS, EXAMPLES, CLASSES = 3, 2, 4
WIDTHS, SIZES = (2, 4, 8), (8, 4, 2)
TEMPERATURE, DIVERSITY, FUSION, SELF = 2.0, 1e-5, 10.0, 1000.0
EPOCH = 2  # 0-based


def softmax(z, temperature=1.0):
  e = np.exp(z / temperature - np.max(z / temperature))
  return e / e.sum()


def cross_entropy(z, label):
  return -math.log(softmax(z)[label])


def softened_kl(teacher, student):
  p, q = softmax(teacher, TEMPERATURE), softmax(student, TEMPERATURE)
  return TEMPERATURE**2 * sum(p * (np.log(p) - np.log(q)))


def attention(feature_map):
  """A(F), [S, S]."""
  return (feature_map**2).mean(-1)


def unit(v):
  v = v.ravel()
  return v / np.sqrt((v**2).sum())


def d(u, v):
  return ((unit(u) - unit(v)) ** 2).mean()


def batch_norm(x, params, statistics, train):
  if train:
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  else:
    mean, var = statistics["mean"], statistics["var"]
  return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def depthwise(x, kernel):
  out = np.zeros_like(x)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  for row in range(x.shape[1]):
    for column in range(x.shape[2]):
      window = padded[:, row : row + 3, column : column + 3]
      out[:, row, column] = (window * kernel[:, :, 0]).sum((1, 2))
  return out


def transposed(x, kernel):
  """Stride 2, padding 1, output padding 1, by scattering every input.

  Input position i reaches output 2 i - 1 + k for tap k. Flax stores the taps
  in the order of the equivalent plain convolution, that is reversed.
  """
  taps = kernel[::-1, ::-1]
  n, size = len(x), x.shape[1]
  out = np.zeros((n, 2 * size, 2 * size, kernel.shape[-1]))
  for i, j, k, m in np.ndindex(size, size, 3, 3):
    row, column = 2 * i - 1 + k, 2 * j - 1 + m
    if 0 <= row < 2 * size and 0 <= column < 2 * size:
      out[:, row, column] += x[:, i, j] @ taps[k, m]
  return out


def two_steps(x, params, statistics, train):
  """Depthwise, norm, ReLU, pointwise, norm, ReLU."""
  x = depthwise(x, params["depth_conv"]["kernel"])
  x = batch_norm(x, params["depth_norm"], statistics["depth_norm"], train)
  x = np.maximum(x, 0) @ params["point_conv"]["kernel"][0, 0]
  x = batch_norm(x, params["point_norm"], statistics["point_norm"], train)
  return np.maximum(x, 0)


def decode(x, params, statistics, train):
  """Maps of the stages before the last, shallowest first."""
  maps = []
  for stage in range(len(WIDTHS) - 1, 0, -1):
    name = f"stage{stage}"
    x = transposed(x, params[f"{name}_conv"]["kernel"])
    norm, own = params[f"{name}_norm"], statistics[f"{name}_norm"]
    x = np.maximum(batch_norm(x, norm, own, train), 0)
    maps.insert(0, x)
  return maps


def diversity_target(reference):
  """For one map [S, S, D]: the target t, a-hat and r, flattened."""
  a = attention(reference).ravel()
  r = np.sqrt((a**2).sum())
  hat = a / r
  tau = np.sort(hat)[max(len(hat) // 3, 1) - 1]
  target = np.empty_like(hat)
  for i, value in enumerate(hat):
    if value > tau:
      target[i] = r - value
    elif value < tau:
      target[i] = value
    else:
      target[i] = r / 2
  return target, hat, r


def reading(logits, maps, labels, variables):
  """All terms, [Q, B] or [B], as the description has them."""
  params, statistics = variables["params"], variables["batch_stats"]
  shallow, deep = maps[:-1], maps[-1]
  leader = STUDENTS
  ramp = math.exp(-5 * (1 - (EPOCH + 1) / 5) ** 2)
  examples = range(EXAMPLES)

  joined = np.concatenate(deep[:STUDENTS], -1)
  fusion = params["fusion"]
  fused_map = two_steps(joined, fusion, statistics["fusion"], True)
  fused = fused_map.mean((1, 2)) @ fusion["head"]["kernel"]
  fused += fusion["head"]["bias"]
  widened = two_steps(deep[leader], params["trans"], statistics["trans"], True)

  def each(fn):
    return np.array([fn(b) for b in examples])

  terms = {
    "peer_ce": [
      each(lambda b, i=i: cross_entropy(logits[i, b], labels[b]))
      for i in range(STUDENTS)
    ],
    "peer_kd": [
      each(
        lambda b, i=i: np.mean(
          [
            softened_kl(logits[j, b], logits[i, b])
            for j in range(STUDENTS)
            if j != i
          ]
        )
      )
      for i in range(STUDENTS)
    ],
    "ensemble_ce": each(lambda b: cross_entropy(fused[b], labels[b])),
    "ensemble_kd": each(
      lambda b: softened_kl(logits[:STUDENTS, b].mean(0), fused[b])
    ),
    "leader_ce": each(lambda b: cross_entropy(logits[leader, b], labels[b])),
    "leader_kd": each(lambda b: softened_kl(fused[b], logits[leader, b])),
    "leader_map_kd": each(
      lambda b: (
        FUSION
        * ramp
        * (
          d(attention(deep[leader][b]), attention(fused_map[b]))
          + d(attention(widened[b]), attention(joined[b]))
        )
      )
    ),
  }
  terms |= {"peer_diversity": [], "peer_self_kd": [], "decoder": []}
  for i in range(1, STUDENTS + 1):
    name = f"decoder_{i}"
    own = functools.partial(decode, params=params[name])
    if i == leader:
      guide = fused_map
    else:
      guide, far = np.empty_like(deep[i]), np.empty(EXAMPLES)
      for b in examples:
        target, hat, r = diversity_target(deep[i - 1][b])
        shift = ((target - hat) * r / WIDTHS[-1]).reshape(SIZES[-1], SIZES[-1])
        guide[b] = deep[i - 1][b] + shift[..., None]
        far[b] = ((unit(attention(deep[i][b])) - target) ** 2).mean()
      terms["peer_diversity"].append(DIVERSITY * ramp * far)
    guided = own(guide, statistics=statistics[name], train=False)
    gap = each(
      lambda b, i=i, guided=guided: sum(
        d(attention(shallow[s][i][b]), attention(guided[s][b]))
        for s in range(len(shallow))
      )
    )
    if i == leader:
      terms["leader_self_kd"] = FUSION * ramp * gap
    else:
      terms["peer_self_kd"].append(DIVERSITY * ramp * gap)
    decoded = own(deep[i], statistics=statistics[name], train=True)
    terms["decoder"].append(
      each(
        lambda b, i=i, decoded=decoded: (
          SELF
          * ramp
          * sum(
            d(decoded[s][b], shallow[s][i][b])
            + d(attention(decoded[s][b]), attention(shallow[s][i][b]))
            for s in range(len(shallow))
          )
        )
      )
    )
  return {name: np.asarray(value) for name, value in terms.items()}


@pytest.fixture(scope="module")
def setting():
  """Outputs of a group, labels, the method and its variables; float64."""
  rng = np.random.default_rng(0)
  count = STUDENTS + 1
  outputs = core.Outputs(
    logits=rng.normal(size=(count, EXAMPLES, CLASSES)),
    features=np.zeros((count, EXAMPLES, WIDTHS[-1])),
    maps=tuple(
      np.abs(rng.normal(size=(count, EXAMPLES, size, size, width)))
      for size, width in zip(SIZES, WIDTHS, strict=True)
    ),
  )
  labels = np.array([1, 3], np.int32)
  batch = core.Batch(
    image=np.zeros((EXAMPLES, 1, 1, 1)),
    target=labels,
    index=labels,
    mask=labels >= 0,
  )
  ctx = core.Context(
    epoch=jnp.float32(EPOCH),
    step=jnp.int32(0),
    rampup=jnp.float32(0.1),
    key=jax.random.key(0),
    num_examples=64,
    train=True,
  )
  method = methods.make("ffsd")
  shapes = jax.eval_shape(
    lambda key: method.init(key, outputs, batch, ctx), jax.random.key(0)
  )
  variables = jax.tree.map(
    lambda s: rng.uniform(0.2, 1.0, s.shape) * rng.choice([-1, 1], s.shape),
    shapes,
  )
  # Variances are positive.
  variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
  return method, variables, outputs, batch, ctx


def terms_of(setting, params, outputs):
  method, variables, _, batch, ctx = setting
  ctx = ctx.replace(epoch=jnp.float64(EPOCH))
  result, after = method.apply(
    variables | {"params": params},
    outputs,
    batch,
    ctx,
    mutable=["batch_stats"],
  )
  return result.terms, after


def test_terms_are_those_of_the_description(setting):
  _, variables, outputs, batch, _ = setting
  with jax.enable_x64(True):
    terms, _ = golden.jit_once(functools.partial(terms_of, setting))(
      variables["params"], outputs
    )
  expected = reading(
    outputs.logits, [list(m) for m in outputs.maps], batch.target, variables
  )
  assert terms.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-9, err_msg=name)


@pytest.mark.long
def test_guided_maps_have_a_factor_of_their_own(setting):
  method, *rest = setting
  with jax.enable_x64(True):
    usual, other = (
      golden.jit_once(functools.partial(terms_of, (each, *rest)))(
        rest[0]["params"], rest[1]
      )[0]
      for each in (method, methods.make("ffsd", guided_factor=3.0))
    )
  factors = {name: 3.0 if name == "peer_self_kd" else 1.0 for name in usual}
  for name, factor in factors.items():
    wanted = factor * np.asarray(usual[name])
    np.testing.assert_allclose(other[name], wanted, rtol=1e-12)


@pytest.mark.long
def test_every_term_trains_its_own_part_alone(setting):
  """Which parameters and which peers' outputs a term sends gradient into."""
  _, variables, outputs, _, _ = setting

  def sums(params, outputs):
    return {
      name: jnp.sum(term)
      for name, term in terms_of(setting, params, outputs)[0].items()
    }

  with jax.enable_x64(True):
    jacobian = golden.jit_once(jax.jacrev(sums, (0, 1)))(
      variables["params"], outputs
    )
  found = {}
  for term, (params, seen) in jacobian.items():
    modules = {
      name.rstrip("_0123456789")
      for name, tree in params.items()
      if any(np.any(leaf) for leaf in jax.tree.leaves(tree))
    }
    peers = {
      peer
      for leaf in (seen.logits, *seen.maps)
      for peer in range(STUDENTS + 1)
      if np.any(leaf[peer])
    }
    found[term] = (modules, peers)
  leader = STUDENTS
  assert found == {
    "peer_ce": (set(), {0, 1, 2}),
    "peer_kd": (set(), {0, 1, 2}),
    "peer_diversity": (set(), {1, 2}),
    "peer_self_kd": (set(), {1, 2}),
    "ensemble_ce": ({"fusion"}, set()),
    "ensemble_kd": ({"fusion"}, set()),
    "leader_ce": (set(), {leader}),
    "leader_kd": (set(), {leader}),
    "leader_map_kd": ({"trans"}, {leader}),
    "leader_self_kd": (set(), {leader}),
    "decoder": ({"decoder"}, set()),
  }


def test_decoders_train_with_adam():
  settings = optim.Optim(weight_decay=0.5, momentum=0.0, nesterov=False)
  optimizer = optim.make(settings, methods.make("ffsd").optimizer_overrides)
  params = {"method": {"decoder_1": jnp.ones(2), "fusion": jnp.ones(2)}}
  gradients = jax.tree.map(lambda p: 3 * p, params)
  updates, _ = optimizer.update(
    gradients, optimizer.init(params), params, learning_rate=0.1
  )
  # The first step of Adam has the size of its rate.
  np.testing.assert_allclose(updates["method"]["decoder_1"], -1e-3, rtol=1e-5)
  np.testing.assert_allclose(
    updates["method"]["fusion"], -0.1 * (3 + 1e-5), rtol=1e-6
  )


def test_last_maps_of_different_shape_are_refused(setting):
  method, variables, outputs, batch, ctx = setting
  *shallow, last = outputs.maps
  last = (np.repeat(last[0], 2, -1), *last[1:])
  uneven = dataclasses.replace(outputs, maps=(*shallow, last))
  with pytest.raises(ConfigError, match="2 x 2 x 16, 2 x 2 x 8.*peers.net"):
    jax.eval_shape(
      functools.partial(method.apply, mutable=["batch_stats"]),
      *(variables, uneven, batch, ctx),
    )
