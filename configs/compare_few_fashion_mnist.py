"""Methods on 1,000 images of Fashion-MNIST, ResNet-8, five seeds.

Few images and many epochs. Rate and weight decay are those at which one
network alone was best on held-out training images (docs/results.md).
No published figures.

    python -m okd_jax compare --config=configs/compare_few_fashion_mnist.py
"""

from configs import common, comparison


def get_config(words: str = ""):
  base = common.fashion_mnist(common.base())
  base.data.train_examples = 1000
  base.batch_size = 50
  base.epochs = 60
  base.eval_epochs = 10
  base.optim.learning_rate = 0.2
  base.optim.weight_decay = 2e-3
  config = comparison.grid(base, "resnet8", "resnet20")
  config.seeds = tuple(range(5))
  return comparison.variant(config, words)
