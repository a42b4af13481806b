r"""KD on CIFAR-10, a ResNet-32 student (Hinton et al., 2015).

The teacher is a trained run or a PyTorch state dict. Reproduces no published
figure: none could be traced. Variants: any network of okd_jax.backbones.

    python main.py --config=configs/kd_c10.py \
        --config.teacher=RUN
"""

from configs import kd_c100


def get_config(words: str = ""):
  return kd_c100.get_config(words, "cifar10")
