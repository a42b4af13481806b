"""FFL on scikit-learn's digits, two ResNet-8 branches.

Reproduces no published figure.

    python main.py --config=configs/ffl_digits.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.method = common.method("ffl")
  config.peers.kind = "branches"
  config.peers.num_peers = 2
  return common.variant(config, words)
