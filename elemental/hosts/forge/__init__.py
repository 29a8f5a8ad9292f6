"""What Forge and Forge Neo have otherwise than the WebUI that they come from."""
