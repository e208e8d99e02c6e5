"""Statistics of outcomes: arrays in, arrays out, no JAX."""
