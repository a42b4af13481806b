"""KDCL on Fashion-MNIST, three ResNet-20 networks.

Reproduces no published figure.

    python main.py --config=configs/kdcl_fashion_mnist.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.method = common.method("kdcl")
  config.peers.num_peers = 3
  return common.variant(config, words)
