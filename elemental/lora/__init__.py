"""LoRA files: what they add to a checkpoint; torch by the tensors' own methods only."""
