"""What reForge has otherwise than the WebUI that it comes from."""
