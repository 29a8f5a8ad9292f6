"""How few rules are found for many tensors: the steps of :mod:`..rule_cover`."""
