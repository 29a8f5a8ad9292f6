"""The standalone host: images with diffusers."""
