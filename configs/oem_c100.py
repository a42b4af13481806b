"""OEM on CIFAR-100, five ResNet-32 of shrinking width (Walawalkar et al., 2020).

Published top-1 accuracy in % of the widest student, ResNet-32: 70.97 (Table 3;
mean of five runs, best epoch on test data). Weight decay and batch size are not
in the paper. Variants: any network of okd_jax.backbones that can be compressed,
for example configs/oem_c100.py:resnet110_basic.

    python main.py --config=configs/oem_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100", epochs: int = 450):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("oem")
  config.epochs = epochs
  config.optim.weight_decay = 1e-4
  return shrinking(common.variant(config, words))


def shrinking(config, count: int = 5):
  """Makes peers of shrinking width, on the stem alone, of one network.

  Of `count` students, number j from 0 keeps (count - j) / count of the widths.
  """
  net = config.peers.net
  narrow = [f"{net}@{count - j}/{count}" for j in range(1, count)]
  config.peers.net = ",".join([net, *narrow])
  config.peers.num_peers = count
  config.peers.kind = "branches"
  config.peers.split = -1
  return config
