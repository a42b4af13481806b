"""Writes an exported leader as ONNX and compares it with JAX.

jax2onnx pins an older Orbax than training needs, so this runs in an environment
of its own, in which the network is rebuilt from its safetensors weights:

    python -m venv .venv-onnx
    .venv-onnx/bin/pip install "jax2onnx>=0.17,<0.18" onnxruntime optax chex \
      safetensors
    PYTHONPATH=. .venv-onnx/bin/python scripts/export_onnx.py RUN/leader
"""

import argparse
import importlib
import sys

from flax import nnx
import jax.numpy as jnp
import jax2onnx
import numpy as np
import onnxruntime

from okd_jax import backbones
from okd_jax.cli import places
from okd_jax.errors import OkdError
from okd_jax.groups import as_outputs
from okd_jax.storage import paths
from okd_jax.weights import exported

TOLERANCE = 1e-5


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "leader", type=paths.expand, help="folder of an exported network"
  )
  parser.add_argument("--to", type=paths.expand, help="file; LEADER/model.onnx")
  args = parser.parse_args()
  path = args.to or args.leader / "model.onnx"
  try:
    places.require_writable(path, folder=False)
    card = exported.read_card(args.leader)
    weights = exported.read_weights(args.leader, card)
    apply, variables = exported.load_leader(args.leader)
  except OkdError as error:
    sys.exit(f"okd_jax: {error}")
  rebuilt = exported.unflatten(weights)
  if "params" not in rebuilt:
    sys.exit(
      f"okd_jax: {args.leader} holds '{card['what']}', a prediction of several "
      "networks; export one of them, for example --what=leader."
    )
  net = network(card)
  mean, std = (np.asarray(card[name], np.float32) for name in ("mean", "std"))

  def logits(images):
    result = net.apply(rebuilt, (images - mean) / std, train=False)
    return as_outputs(result).logits

  model = jax2onnx.to_onnx(
    logits,
    [("batch", *card["image_shape"])],
    model_name=card["network"],
    input_names=["images"],
    output_names=["logits"],
  )
  content = model.SerializeToString()
  try:
    session = onnxruntime.InferenceSession(content)
  except Exception as error:  # of its own classes, which share no other base
    sys.exit(
      f"okd_jax: onnxruntime cannot run {card['network']} in "
      f"{card['precision']} ({error}); export a network that was trained with "
      "config.precision=float32."
    )
  worst = difference(
    session, lambda x: apply(variables, x), card["image_shape"]
  )
  if not worst <= TOLERANCE:  # so that nan is refused
    sys.exit(
      f"okd_jax: logits differ from JAX's by {worst:.1e}, which is more than "
      f"{TOLERANCE}; nothing was written. Use model.stablehlo."
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
  print(f"{path}: logits differ from JAX's by {worst:.1e} at most.")


def difference(session, apply, image_shape):
  """The largest difference of logits on random images; nan if one is nan."""
  rng = np.random.default_rng(0)
  found = []
  for size in (1, 257):
    images = rng.random((size, *image_shape), np.float32)
    (result,) = session.run(None, {"images": images})
    found.append(abs(result - apply(images)).max())
  return float(np.max(found))


def network(card):
  """Rebuilds the network that a card names."""
  options = {}
  if card["precision"] != "float32":
    options["dtype"] = jnp.dtype(card["precision"])
  outputs = len(card["joints"]) if "joints" in card else card["num_classes"]
  module, _, attribute = card["network"].partition(":")
  if attribute:
    made = getattr(importlib.import_module(module), attribute)
    if isinstance(made, type) and issubclass(made, nnx.Module):
      # jax2onnx replaces layers of nnx by its own, which take other arguments.
      sys.exit(
        f"okd_jax: {card['network']} is a network of flax nnx, and those of "
        "linen alone are written as ONNX; use model.stablehlo or "
        "--format=savedmodel."
      )
    return made(num_classes=outputs, **options)
  return backbones.make(module, outputs, **options)


if __name__ == "__main__":
  main()
