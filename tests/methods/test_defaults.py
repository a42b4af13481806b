"""Defaults of methods are those of their losses."""

import dataclasses
import importlib
import inspect
import re

import pytest

from okd_jax import losses, methods

# (method, loss, field); the docstring of the method says why.
EXCEPTIONS = {("dml", "dml", "temperature"), ("dml", "dml", "stop_gradient")}


def differences(name):
  """Fields with another default than the loss's argument of that name."""
  module = importlib.import_module(f"okd_jax.methods.{name}")
  fields = {
    field.name: field.default
    for field in dataclasses.fields(module.Method)
    if field.name not in ("name", "parent")
  }
  used = set(re.findall(r"losses\.(\w+)", inspect.getsource(module)))
  return {
    (name, loss, parameter.name)
    for loss in used & set(losses.__all__)
    for parameter in inspect.signature(
      getattr(losses, loss)
    ).parameters.values()
    if parameter.default is not parameter.empty
    and parameter.name in fields
    and fields[parameter.name] != parameter.default
  }


@pytest.mark.parametrize(
  ("name", "options", "leader", "called"),
  [
    ("okddip", {}, -1, "leader"),
    ("okddip", {"with_leader": False}, 0, "first peer"),
    ("mcl", {}, 0, "first peer"),
    ("mcl", {"logit_kd": "all"}, 0, "first peer"),
    ("mcl", {"logit_kd": "last"}, -1, "last peer"),
  ],
)
def test_tables_call_the_deployed_network_what_it_is(
  name, options, leader, called
):
  method = methods.make(name, **options)
  assert (method.leader, method.deployed_as) == (leader, called)


@pytest.mark.parametrize("name", methods.names())
def test_defaults_are_those_of_the_loss(name):
  expected = {exception for exception in EXCEPTIONS if exception[0] == name}
  assert differences(name) == expected
