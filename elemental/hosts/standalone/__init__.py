"""The host on diffusers, without a WebUI."""
