"""What elements do to an image, estimated by backward passes."""
