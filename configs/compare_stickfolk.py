"""All methods for keypoints on drawn figures, hourglass of two stacks.

No published figures. As short as the recipes' `:short`, and every method
with its defaults: OKDHP's `kd_weight` is 1 here, and 2 in its recipe.

    python -m okd_jax compare --config=configs/compare_stickfolk.py
"""

from configs import common, comparison


def get_config(words: str = ""):
  base = common.stickfolk(common.base())
  base.epochs = 5
  config = comparison.grid(
    base, "hourglass2_small", "hourglass3_small", "keypoints"
  )
  return comparison.variant(config, words)
