"""PCL on scikit-learn's digits, three ResNet-8 branches.

Reproduces no published figure.

    python main.py --config=configs/pcl_digits.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.method = common.method("pcl")
  config.peers.kind = "branches"
  config.peers.num_peers = 3
  return common.variant(config, words)
