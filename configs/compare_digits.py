"""All methods on scikit-learn's digits, ResNet-8, three seeds.

No published figures.

    python -m okd_jax compare --config=configs/compare_digits.py
"""

from configs import common, comparison, ctkd_digits


def get_config(words: str = ""):
  base = common.digits(common.base())
  # Short, as there are many methods and seeds.
  base.epochs = 20
  config = comparison.grid(base, "resnet8", "resnet20")
  config.options.ctkd.attention_weight /= ctkd_digits.SMALLER
  return comparison.variant(config, words)
