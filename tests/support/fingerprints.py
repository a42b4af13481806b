"""Layers of the published networks, filled by the rule of the test vectors."""

import json
import pathlib

import numpy as np

_PATH = pathlib.Path(__file__).parents[1] / "vectors" / "okddip.json"
CASES = {
  case["name"]: case
  for case in json.loads(_PATH.read_text())["architectures"]["cases"]
}
# Our name of each network in the vectors.
NETWORKS = {
  "densenet40_12": "densenet40_12",
  "resnet110": "resnet110",
  "resnet18_imagenet": "resnet18",
  "resnet32": "resnet32",
  "resnet34_imagenet": "resnet34",
  "vgg16": "vgg16",
  "wide_resnet20_8": "wrn20_8",
}


def state_dict(layers) -> dict[str, np.ndarray]:
  """PyTorch-like state dict of layers [index, name, kind, shape, bias]."""
  filled = {}
  for index, name, kind, shape, bias in layers:
    c = np.arange(shape[0])
    if kind == "bn":
      filled |= {
        f"{name}.weight": 1 + 0.1 * ((29 * c + 7 * index) % 53 / 53 - 0.5),
        f"{name}.bias": 0.1 * ((41 * c + 5 * index) % 59 / 59 - 0.5),
        f"{name}.running_mean": np.zeros(shape[0]),
        f"{name}.running_var": np.ones(shape[0]),
        f"{name}.num_batches_tracked": np.array(0),
      }
      continue
    filled[f"{name}.weight"] = _weight(
      index, shape[: 4 if kind == "conv" else 2]
    )
    if bias:
      filled[f"{name}.bias"] = 0.1 * ((37 * c + 11 * index) % 101 / 101 - 0.5)
  return filled


def entries(shapes) -> dict[str, np.ndarray]:
  """State dict of entries by name; no statistics are those at the start."""
  filled = {}
  for index, (name, shape) in enumerate(shapes.items()):
    size = int(np.prod(shape))
    place = np.arange(size)
    hashed = (131 * place + 97 * index + 7 * place * (place // 5)) % 251
    value = (hashed / 125 - 1).reshape(shape)
    if name.endswith("num_batches_tracked"):
      value = np.array(0)
    elif name.endswith("running_var"):
      value = 1 + 0.5 * value
    elif len(shape) == 1 and name.endswith("weight"):
      value = 1 + 0.2 * value
    elif len(shape) in (2, 4):
      value *= np.sqrt(3 * shape[0] / size)
    filled[name] = value
  return filled


def images(batch: int, size: int) -> np.ndarray:
  """Images [B, H, W, 3]."""
  b, y, x, c = np.indices((batch, size, size, 3))
  hashed = 61 * b + 43 * c + 17 * y + 29 * x + 3 * y * x + 5 * b * y
  return hashed % 127 / 63 - 1


def _weight(index, shape):
  o, i, ky, kx = np.indices((*shape, 1, 1)[:4])
  hashed = 131 * o + 79 * i + 31 * ky + 57 * kx + 97 * index + 7 * o * i
  bound = np.sqrt(6 / np.prod(shape[1:]))
  return (bound * (hashed % 251 / 125 - 1)).reshape(shape)
