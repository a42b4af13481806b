"""Online knowledge distillation in JAX and Flax."""
