"""A short run on a folder of pictures of 8 x 8 pixels, for tests."""

import numpy as np
from PIL import Image

from configs import common as recipes, okddip_digits
from okd_jax.settings.freeze import freeze
from okd_jax.settings.schema import RunConfig


def configured(root, **changes) -> RunConfig:
  config = okddip_digits.get_config("smoke")
  config.data.name, config.data.image_size = f"folder:{root}", 8
  config.data.train_examples = 0
  config.peers.net, config.peers.num_peers = "own_networks:Small", 2
  config.method = recipes.method("independent")
  config.mesh.data = 1
  config.batch_size = config.eval_batch_size = 6
  config.epochs, config.rampup_epochs = 1, 1
  config.update_from_flattened_dict(changes)
  return freeze(config)


def add_pictures(root, numbers):
  """Writes one picture of each of two classes for every number."""
  for name in ("cat", "dog"):
    for number in numbers:
      path = root / name / f"{number}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      rng = np.random.default_rng([number, name == "dog"])
      pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
      Image.fromarray(pixels).save(path)
