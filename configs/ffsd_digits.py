"""FFSD on scikit-learn's digits, two students and a leader of ResNet-8.

Reproduces no published figure.

    python main.py --config=configs/ffsd_digits.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.method = common.method("ffsd")
  config.peers.num_peers = 3
  return common.variant(config, words)
