"""What the pages of one host share; no gradio here."""
