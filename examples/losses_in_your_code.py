"""The losses in plain JAX: three small networks and a leader learn digits."""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from okd_jax import losses

images, labels = load_digits(return_X_y=True)
images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
keys = jax.random.split(jax.random.key(0), 4)


def network(key):
  first, second = jax.random.split(key)
  return {
    "hidden": jax.random.normal(first, (64, 32)) / 8,
    "head": jax.random.normal(second, (32, 10)) / 6,
  }


def forward(params, x):
  features = jax.nn.relu(x @ params["hidden"])
  return features @ params["head"], features


def loss_fn(params, x, y, ramp):
  logits, features = jax.vmap(forward, (0, None))(params["peers"], x)
  queries, keys = features[:3] @ params["query"], features[:3] @ params["key"]
  terms = losses.okddip(logits[:3], logits[3], queries, keys, y, kd_weight=ramp)
  # Nothing is reduced over examples before.
  return sum(jnp.sum(jnp.mean(term, -1)) for term in terms.values())


@jax.jit
def step(params, state, x, y, ramp):
  grads = jax.grad(loss_fn)(params, x, y, ramp)
  updates, state = optimizer.update(grads, state)
  return optax.apply_updates(params, updates), state


optimizer = optax.sgd(0.1, momentum=0.9)
projection = jax.random.normal(jax.random.key(1), (2, 32, 4)) / 6
params = {
  "peers": jax.vmap(network)(keys),
  "query": projection[0],
  "key": projection[1],
}
state = optimizer.init(params)
for i in range(300):
  rows = slice(i % 11 * 128, i % 11 * 128 + 128)  # the last 389 are for testing
  ramp = min(1.0, i / 100)
  params, state = step(params, state, images[rows], labels[rows], ramp)
leader = jax.tree.map(lambda leaf: leaf[3], params["peers"])
predicted = jnp.argmax(forward(leader, images[1408:])[0], -1)
accuracy = float(jnp.mean(predicted == labels[1408:]))
print(f"The leader reads {accuracy:.1%} of the digits it has not seen.")
