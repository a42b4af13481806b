"""ONE on scikit-learn's digits, four ResNet-8 branches.

Reproduces no published figure.

    python main.py --config=configs/one_digits.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.method = common.method("one")
  config.peers.kind = "branches"
  return common.variant(config, words)
