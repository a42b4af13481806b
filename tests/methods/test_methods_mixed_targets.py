"""Every method learns from mixed pictures, smooth labels, weighted classes."""

import dataclasses

import jax
import numpy as np
import pytest
import quick

from okd_jax import methods
from okd_jax.data.augmentation import Augment
import runs
import toys


def recipe(name, **changes):
  method = methods.make(name)
  kind = method.needs.kind or ("branches" if name == "pcl" else "replicas")
  made = toys.recipe(method, kind=kind, num_peers=3)
  task = dataclasses.replace(made.task, **changes)
  return dataclasses.replace(made, task=task)


@pytest.mark.parametrize("name", quick.only(["pcl"], toys.SOME_FIRST))
def test_every_method_takes_mixtures(name):
  setup = recipe(
    name,
    augmentation=Augment(mixup=0.4, cutmix=1.0),
    smoothing=0.1,
    class_weights=(1.0, 2.0, 0.5, 1.0, 1.0),
  )
  state, measured = runs.train(setup, 1)
  for term, value in measured["terms"].items():
    assert np.all(np.isfinite(value)), term
  assert measured["gradient_norm"] > 0
  assert all(
    np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)
  )


@pytest.mark.parametrize("name", toys.OF_CLASSES)
def test_all_peers_of_a_method_see_one_mixture(name):
  # Without other changes views are alike, and so is what is mixed.
  setup = recipe(
    name,
    augmentation=Augment(mixup=0.4, crop=False),
    info=dataclasses.replace(toys.INFO, flip=False),
  )
  batch = setup.augment(toys.batch(0), jax.random.key(0))
  assert batch.target.shape == (16, 5)
  views = batch.image if batch.image.ndim == 5 else batch.image[None]
  assert len(views) == (3 if setup.method.needs.views else 1)
  for view in views[1:]:
    np.testing.assert_array_equal(view, views[0])
