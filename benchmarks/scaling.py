"""What a training step costs on each mesh, counted in its compiled program.

    python -m benchmarks.scaling --methods=all --meshes=1x1,8x1,4x2,2x4

Compiles for virtual CPU devices and runs nothing. Beside the counted bytes and
operations stands a cost model (`predict`); the last lines apply the model to a
machine that is not at hand. Bytes are those that come out of collectives on one
device, in one step.
"""

import argparse
import dataclasses
import os
from typing import Any

FAR = (64, 4)
SHARES = ("gradients", "statistics", "exchanged", "maps")


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one step, on one device.

  Attributes:
    flops: floating-point operations, of convolutions and products above all.
    sent: bytes by purpose, see `SHARES`: gradients, batch statistics, what
      peers see of each other (logits and features), and feature maps.
    collectives: how many.
    memory: bytes of arguments and temporaries.
  """

  flops: float
  sent: dict[str, float]
  collectives: int
  memory: int


def count(recipe: Any) -> Cost:
  """Counts in the program that the compiler makes of a step."""
  from benchmarks import collectives, setting

  step, (state, batch, key) = setting.step_and_arguments(recipe)
  teacher = None
  if recipe.teacher is not None:
    import jax

    teacher = jax.eval_shape(
      recipe.teacher.init, jax.random.key(0), recipe.example_images()
    )
  compiled = step.lower(state, batch, key, teacher).compile()
  weights = _local_shapes(state.params)
  sent = dict.fromkeys(SHARES, 0.0)
  found = collectives.collectives(compiled)
  for each in found:
    sizes = [_size(shape) for shape in each.shapes]
    for shape, size in zip(each.shapes, sizes, strict=True):
      purpose = _purpose(shape, each.source, weights)
      sent[purpose] += each.size * size / max(sum(sizes), 1)
  used = compiled.memory_analysis()
  return Cost(
    flops=compiled.cost_analysis()["flops"],
    sent=sent,
    collectives=len(found),
    memory=used.argument_size_in_bytes + used.temp_size_in_bytes,
  )


def predict(recipe: Any, data: int, peer: int) -> dict[str, float]:
  """The cost model: operations, gradient and statistics bytes of one device.

  A device holds P / peer peers and B / data images.

  - operations: twice the multiply-adds of an image and peer for the forward
    pass and four times for the backward pass, P / peer * B / data times; a
    shared trunk once, mean teachers' forward pass too.
  - gradients: 4 bytes a parameter of the peers on the device, whatever the
    batch and however many devices share it; a trunk's are summed over both
    axes. Scale and bias of normalised channels are below.
  - statistics: of every normalised channel three numbers forward and two
    backward, its gradients, 4 bytes each; three more of mean teachers.

  What peers see of each other grows with P * B / data * (classes + features)
  and is counted only.
  """
  import jax

  from benchmarks import setting

  group = recipe.peers
  variables = jax.eval_shape(
    group.init, jax.random.key(0), recipe.example_images()
  )

  def numbers(collection, part):
    tree = variables.get(collection, {})
    if group.stem is not None:
      tree = tree[part]
    elif part == "trunk":
      return 0
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

  own = numbers("params", "tails") / peer
  shared = numbers("params", "trunk")
  # As many channels have a scale and a bias as have a mean and a variance.
  scaled = numbers("batch_stats", "tails") / peer
  scaled += numbers("batch_stats", "trunk")
  split = data > 1
  forward_too = recipe.method.needs.ema_decay is not None
  trunk, tail = setting.multiply_adds(recipe)
  return {
    "flops": (8 if forward_too else 6)
    * (trunk + tail * group.num_peers / peer)
    * recipe.batch_size
    / data,
    "gradients": 4 * ((own + shared - scaled) * split + shared * (peer > 1)),
    "statistics": 4 * (8 if forward_too else 5) / 2 * scaled * split,
  }


def far(recipe: Any, data: int, peer: int) -> str:
  """What a step needs on more devices than there are here, by the model.

  Args:
    recipe: its batch is the images of one device on the data axis.
    data: devices on the data axis.
    peer: devices on the peer axis.
  """
  whole = dataclasses.replace(recipe, batch_size=data * recipe.batch_size)
  model = predict(whole, data, peer)
  sent = model["gradients"] + model["statistics"]
  # A ring sends and receives everything about twice.
  intensity = model["flops"] / (2 * sent)
  return (
    f"{data * peer} devices as {data}x{peer}, {recipe.batch_size} images on "
    f"each: {model['flops'] / 1e9:.2f} GFLOP and {2 * sent / 1e6:.2f} MB a "
    f"device and step, so that a device of 100 TFLOP/s in use must send "
    f"{100e12 / intensity / 1e9:.1f} GB/s to compute and send for equally long."
  )


def _local_shapes(params: Any) -> set[tuple[int, ...]]:
  """Shapes that gradients have on a device, with and without a peer axis."""
  import jax

  shapes = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1}
  peerless = {shape[1:] for shape in shapes if len(shape) > 2}
  return shapes | peerless | {(1, *shape) for shape in peerless}


def _purpose(
  shape: tuple[int, ...], source: str, weights: set[tuple[int, ...]]
) -> str:
  if shape in weights:
    return "gradients"
  # Vectors and stacks of three of them; scale and bias have gradients like it.
  if "shard_map" in source and _size(shape) <= 3 * max((*shape, 1)):
    return "statistics"
  return "maps" if len(shape) >= 4 and min(shape[-3:-1]) > 1 else "exchanged"


def _size(shape: tuple[int, ...]) -> int:
  size = 1
  for length in shape:
    size *= length
  return size


def _megabytes(value: float) -> str:
  return f"{value / 1e6:.3f}"


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
  parser.add_argument("--methods", default="okddip", help="or all")
  parser.add_argument("--net", default="resnet8")
  parser.add_argument("--kind", default="replicas")
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--meshes", default="1x1,8x1,4x2,2x4")
  args = parser.parse_args()
  meshes = [tuple(map(int, m.split("x"))) for m in args.meshes.split(",")]
  most = max(data * peer for data, peer in meshes)
  os.environ["XLA_FLAGS"] = " ".join(
    (
      os.environ.get("XLA_FLAGS", ""),
      f"--xla_force_host_platform_device_count={most}",
      # What is counted does not depend on how well it is compiled.
      "--xla_backend_optimization_level=0",
      "--xla_llvm_disable_expensive_passes=true",
    )
  )
  os.environ["JAX_PLATFORMS"] = "cpu"

  from benchmarks import setting
  from okd_jax import methods

  names = methods.names() if args.methods == "all" else args.methods.split(",")
  print(f"4 {args.net} peers, batch {args.batch}; counted / model, by device")
  print(
    "| method | kind | mesh | GFLOP | "
    + " | ".join(f"{share} MB" for share in SHARES)
    + " | collectives | memory MB |"
  )
  print("|" + "---|" * 10)
  for name in names:
    kind = methods.load(name)().needs.kind or args.kind
    for data, peer in meshes:
      recipe = setting.recipe(
        name, args.net, kind, 4, args.batch, data=data, peer=peer
      )
      counted, model = count(recipe), predict(recipe, data, peer)
      sent = [_megabytes(counted.sent[share]) for share in SHARES]
      for i, share in enumerate(SHARES[:2]):
        sent[i] += " / " + _megabytes(model[share])
      print(
        f"| {name} | {kind} | {data}x{peer} | {counted.flops / 1e9:.2f} / "
        f"{model['flops'] / 1e9:.2f} | {' | '.join(sent)} | "
        f"{counted.collectives} | {counted.memory / 1e6:.0f} |",
        flush=True,
      )
  for name in names:
    kind = methods.load(name)().needs.kind or args.kind
    print(f"{name}: ", end="")
    print(far(setting.recipe(name, args.net, kind, 4, args.batch), *FAR))


if __name__ == "__main__":
  main()
