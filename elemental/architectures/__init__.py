"""What a checkpoint is: its blocks, elements and architecture, from key names and shapes alone."""
