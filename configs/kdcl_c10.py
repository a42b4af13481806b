"""KDCL on CIFAR-10, three ResNet-32 networks (Guo et al., CVPR 2020).

Published top-1 accuracy in %, one network, ResNet-32: 94.01 +- 0.08 (Wu and
Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones, or one a peer with replicas,
for example resnet32,resnet110,wrn20_8 through --config.peers.net; the rules
through --config.method.rule.

    python main.py --config=configs/kdcl_c10.py
"""

from configs import kdcl_c100


def get_config(words: str = ""):
  return kdcl_c100.get_config(words, "cifar10")
