"""KDCL on CIFAR-100, three ResNet-32 networks (Guo et al., CVPR 2020).

Published top-1 accuracy in %, one network, ResNet-32: 73.76 +- 0.34 (Wu and
Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones, or one a peer with replicas,
for example resnet32,resnet110,wrn20_8 through --config.peers.net; the rules
through --config.method.rule.

    python main.py --config=configs/kdcl_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  config.method = common.method("kdcl")
  config.peers.num_peers = 3
  return common.variant(config, words)
