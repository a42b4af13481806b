"""OEM on CIFAR-100, five ResNet-32 of shrinking width (ECCV 2020).

Published top-1 accuracy in % of the widest student, ResNet-32: 70.97 (Table 3;
mean of five runs, best epoch on test data). Weight decay and batch size are not
in the paper. Variants: any network of okd_jax.backbones that can be compressed,
for example configs/oem_c100.py:resnet110_basic.

    python main.py --config=configs/oem_c100.py
"""

from configs import common
from okd_jax.methods import oem


def get_config(words: str = "", data_set: str = "cifar100", epochs: int = 450):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("oem")
  config.epochs = epochs
  config.optim.weight_decay = 1e-4
  if data_set == "cifar10":
    config.image_std = (0.2023, 0.1994, 0.2010)
  return shrinking(common.variant(config, words))


def shrinking(config):
  """Makes peers of shrinking width, on the stem alone, of one network."""
  config.update_from_flattened_dict(oem.shrinking(config.peers.net))
  config.peers.kind = "branches"
  return config
