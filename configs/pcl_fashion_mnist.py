"""PCL on Fashion-MNIST, three ResNet-20 branches.

Reproduces no published figure.

    python main.py --config=configs/pcl_fashion_mnist.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  config.method = common.method("pcl")
  config.peers.kind = "branches"
  config.peers.num_peers = 3
  return common.variant(config, words)
