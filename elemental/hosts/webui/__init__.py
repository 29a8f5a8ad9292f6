"""The host inside AUTOMATIC1111's WebUI."""
