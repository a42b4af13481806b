"""MCL on scikit-learn's digits, two ResNet-8 networks.

Reproduces no published figure.

    python main.py --config=configs/mcl_digits.py
"""

from configs import common, mcl_c100


def get_config(words: str = ""):
  config = common.digits(common.base())
  mcl_c100.recipe(config)
  return common.variant(config, words)
