"""Maps of FFSD: small ones by hand, constants, and those that do not fit."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import losses

MAP = np.ones((4, 2, 2, 3))
OTHERS = [[MAP], [MAP]]
ARGUMENTS = {
  "logits": np.zeros((3, 4, 5)),
  "fused_logits": np.zeros((4, 5)),
  "labels": np.arange(4),
  "deep_maps": [MAP, MAP, MAP],
  "fused_map": MAP,
  "widened_map": MAP,
  "shallow_maps": OTHERS,
  "guided_maps": OTHERS,
  "decoded_maps": OTHERS,
}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"deep_maps": None}, "deep_maps must be a sequence; got None"),
    ({"fused_map": MAP[:, :1]}, "fused_map must be "),
    ({"widened_map": MAP[:2]}, "widened_map must be "),
    ({"shallow_maps": []}, "shallow_maps must be .* 2 peers; got "),
    ({"shallow_maps": [[], []]}, "shallow_maps must be .*at least one"),
    ({"guided_maps": [MAP[None]]}, r"guided_maps must be .*got \[1\]"),
    ({"guided_maps": None}, "guided_maps must be a sequence; got None"),
    ({"guided_maps": [[MAP], None]}, r"guided_maps\[1\] must be a sequence"),
    ({"guided_maps": [[MAP], [MAP[:, :1]]]}, r"guided_maps\[1\]\[0\] must be "),
    (
      {"decoded_maps": [[MAP[..., :1]], [MAP]]},
      r"decoded_maps\[0\]\[0\] must ",
    ),
    (
      dict.fromkeys(
        ("shallow_maps", "guided_maps", "decoded_maps"), [[MAP[:2]], [MAP[:2]]]
      ),
      r"shallow_maps\[0\]\[0\] must be .*with B = 4",
    ),
  ],
)
def test_maps_that_do_not_fit_are_refused_by_name(change, message):
  jax.eval_shape(lambda: losses.ffsd(**ARGUMENTS))
  with pytest.raises(ValueError, match=f"^ffsd: {message}"):
    losses.ffsd(**ARGUMENTS | change)


def test_the_first_of_two_positions_is_the_one_to_leave():
  """A third of two positions is none, and the lowest stands for it."""
  # By hand: a = (3, 4), r = 5, a / r = (0.6, 0.8) and t = (2.5, 4.2).
  maps = np.array([3**0.5, 2.0]).reshape(1, 1, 2, 1)
  distance, guide = losses.diverse_attention(maps, maps)
  np.testing.assert_allclose(distance, [(1.9**2 + 3.4**2) / 2], rtol=1e-5)
  np.testing.assert_allclose(
    guide.ravel(), [3**0.5 + 5 * 1.9, 2 + 5 * 3.4], rtol=1e-5
  )


@pytest.mark.parametrize(
  "distance",
  [
    losses.attention_distance,
    losses.map_distance,
    lambda *maps: losses.diverse_attention(*maps)[0],
  ],
)
def test_distances_between_maps_train_the_first_alone(distance):
  maps = np.random.default_rng(0).uniform(0.5, 1, (2, 3, 4, 4, 2))
  trained, constant = jax.grad(lambda x: jnp.sum(distance(*x)))(list(maps[:2]))
  assert trained.any() and not constant.any()


def test_guided_maps_may_have_a_weight_of_their_own():
  rng = np.random.default_rng(0)
  drawn = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape), ARGUMENTS)
  arrays = drawn | {"labels": ARGUMENTS["labels"]}
  usual = losses.ffsd(**arrays, diversity_weight=2.0)
  other = losses.ffsd(**arrays, diversity_weight=2.0, guided_weight=0.5)
  for name, term in usual.items():
    factor = 0.25 if name == "peer_self_kd" else 1.0
    assert np.all(term > 0)
    np.testing.assert_allclose(other[name], factor * term, rtol=1e-6)


def test_every_term_trains_what_learns_and_not_its_targets():
  rng = np.random.default_rng(0)
  arrays = {n: x for n, x in ARGUMENTS.items() if n != "labels"}
  # Peers apart, as a peer's logits are targets of the other peers.
  arrays["logits"] = list(arrays["logits"])
  arrays = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape), arrays)

  @golden.jit_once
  @jax.jacrev
  def jacobian(x):
    x = x | {"logits": jnp.stack(x["logits"]), "labels": ARGUMENTS["labels"]}
    return jax.tree.map(lambda t: jnp.sum(t, -1), losses.ffsd(**x))

  found = {}
  for term, leaves in jacobian(arrays).items():
    rank = jnp.ndim(leaves["fused_logits"]) - 2
    for row in np.ndindex(*leaves["fused_logits"].shape[:rank]):
      found["/".join(map(str, (term, *row)))] = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(leaves)
        if jnp.any(leaf[row])
      }
  assert found == {
    "peer_ce/0": {"logits/0"},
    "peer_ce/1": {"logits/1"},
    "peer_kd/0": {"logits/0"},
    "peer_kd/1": {"logits/1"},
    "ensemble_ce": {"fused_logits"},
    "ensemble_kd": {"fused_logits"},
    "leader_ce": {"logits/2"},
    "leader_kd": {"logits/2"},
    "peer_diversity/0": {"deep_maps/1"},
    "peer_self_kd/0": {"shallow_maps/0/0"},
    "leader_map_kd": {"deep_maps/2", "widened_map"},
    "leader_self_kd": {"shallow_maps/1/0"},
    "decoder/0": {"decoded_maps/0/0"},
    "decoder/1": {"decoded_maps/1/0"},
  }
