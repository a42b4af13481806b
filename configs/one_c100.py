"""ONE on CIFAR-100, four ResNet-32 branches (Lan et al., NeurIPS 2018).

Published top-1 accuracy in %, mean of branches, ResNet-32: 73.79 +- 0.41 (Wu
and Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones, and "original": three
branches, constant target, no Nesterov momentum, weight decay 1e-4, drops at
half and three quarters (Lan et al.).

    python main.py --config=configs/one_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("one")
  config.peers.kind = "branches"
  words, original = common.take(words, "original")
  if original:
    config.method.stop_gradient = True
    config.peers.num_peers = 3
    config.optim.nesterov = False
    config.optim.weight_decay = 1e-4
  return common.branch_dropout(common.variant(config, words))
