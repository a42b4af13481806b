"""Imported by processes whose runs draw no curves; it takes a third of them."""

from okd_jax import train

train.draw = lambda workdir: None
