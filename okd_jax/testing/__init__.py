"""The conformance suite of methods, for ours and for your own.

from okd_jax import testing
from my_package import my_method

def test_my_method():
  testing.check_method(my_method.Method())
"""

from okd_jax.testing._suite import (
  check_method as check_method,
  CHECKS as CHECKS,
)
from okd_jax.testing._training import TooFewDevices as TooFewDevices
