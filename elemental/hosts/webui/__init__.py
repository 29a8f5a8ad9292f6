"""The WebUI host: AUTOMATIC1111's WebUI, inside its own process."""
