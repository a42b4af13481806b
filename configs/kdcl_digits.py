"""KDCL on scikit-learn's digits, three ResNet-8 networks.

Reproduces no published figure.

    python main.py --config=configs/kdcl_digits.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.method = common.method("kdcl")
  config.peers.num_peers = 3
  return common.variant(config, words)
