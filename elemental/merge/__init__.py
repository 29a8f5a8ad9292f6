"""From a recipe to tensors: plans, checkpoints, formulas, the executor and the files it writes."""
