"""From a recipe to tensors: plans, the executor, live merges, and the files that are read and written."""
