"""Runs every method on every kind of group, mesh and network it is for.

    python tests/matrix.py [METHOD ...]

Writes docs/matrix.md. On the toy network five real steps are made on every
mesh, in float64, and compared with one device. On the networks of the papers
one step is traced, shapes and sharding rules included, but not compiled.
"""

import functools
from pathlib import Path
import sys
import time

# Before jax: it makes eight devices.
import conftest
import jax
import jax.numpy as jnp
import numpy as np

from okd_jax import backbones, methods
from okd_jax.data.info import KNOWN
from okd_jax.training import state as state_lib, step as steps
import runs
import toys

assert conftest
ROOT = Path(__file__).parents[1]
MESHES = ((1, 1), (8, 1), (4, 2), (2, 4))
NETWORKS = (
  "resnet32",
  "resnet110",
  "resnet110_basic",
  "wrn20_8",
  "vgg16",
  "densenet40_12",
)
PEERS = 4
HEAD = f"""# Conformance matrix

Do results depend on the mesh? `make matrix` wrote this page, on
{len(jax.devices())} virtual devices with {PEERS} peers.
"""
TOY = """
## Toy network, five steps in float64

Each cell is the largest difference of any number in the state or the measures
from that number on one device, relative for numbers above one. `-` means that
the method is not for this kind of group. The tables are of classes, and leave
out `okdhp`, which is for keypoints alone.
"""
TRACED = """
## Networks of the papers, one step traced

CIFAR-100, batch of 128 on a mesh of 4 x 2. The step was traced and its shapes
were checked, but it was not run. `-` means the same as above.
"""


def kinds(name):
  only = methods.make(name).needs.kind
  return [(kind, only in (None, kind)) for kind in ("replicas", "branches")]


def difference(actual, desired):
  gaps = jax.tree.map(
    lambda a, b: np.max(np.abs(a - b) / np.maximum(np.abs(b), 1), initial=0),
    actual,
    desired,
  )
  return max(jax.tree.leaves(gaps))


def on_meshes(name, kind):
  """One cell a mesh: how far five steps end from those of one device."""
  cells, expected, start = ["0"], None, None
  with jax.enable_x64(True):
    for data, peer in MESHES:
      recipe = toys.recipe(
        name, kind=kind, data=data, peer=peer, mapping="vmap", dtype=jnp.float64
      )
      if expected is None:
        start = jax.device_get(runs.start(recipe))
        expected = runs.train_from(recipe, start)
        continue
      gap = difference(runs.train_from(recipe, start), expected)
      assert gap < 1e-9, (name, kind, data, peer, gap)
      cells.append(f"{gap:.0e}")
  return cells


def traced(name, kind, net):
  """Traces one step; raises if the method does not go with the network."""
  info = KNOWN["cifar100"]
  recipe = toys.recipe(
    name,
    kind=kind,
    data=4,
    peer=2,
    num_peers=PEERS,
    net=backbones.make(net, info.num_classes),
    info=info,
    batch_size=128,
    train_size=info.num_train,
    num_positions=info.num_train,
  )
  key = jax.random.key(0)
  state = state_lib.abstract(recipe, key)
  taught = None
  if recipe.teacher is not None:
    taught = jax.eval_shape(recipe.teacher.init, key, recipe.example_images())
  batch = toys.batch(0, 128).replace(
    image=jax.ShapeDtypeStruct((128, *info.image_shape), jnp.uint8)
  )
  after, _ = jax.eval_shape(
    functools.partial(steps.train_step, recipe),
    *(state, batch, key, taught, runs.train_labels(recipe)),
  )
  assert jax.tree.structure(after) == jax.tree.structure(state)
  return "ok"


def rows(names, columns, cells_of):
  """A Markdown table: one row a method and kind."""
  yield f"| method | kind | {' | '.join(columns)} |"
  yield "|" + " --- |" * (len(columns) + 2)
  for name in names:
    for kind, legal in kinds(name):
      began = time.monotonic()
      cells = cells_of(name, kind) if legal else ["-"] * len(columns)
      if legal:
        seconds = time.monotonic() - began
        print(f"{name} {kind}: {cells} in {seconds:.0f} s", flush=True)
      yield f"| {name} | {kind} | {' | '.join(cells)} |"


def main(names):
  toy = rows(names, [f"{d} x {p}" for d, p in MESHES], on_meshes)
  networks = rows(
    names,
    NETWORKS,
    lambda name, kind: [traced(name, kind, n) for n in NETWORKS],
  )
  lines = [HEAD, TOY, *toy, TRACED, *networks]
  path = ROOT / "docs" / "matrix.md"
  path.write_text("\n".join(lines) + "\n")
  print(f"Written to {path}.")


if __name__ == "__main__":
  main(sys.argv[1:] or toys.OF_CLASSES)
