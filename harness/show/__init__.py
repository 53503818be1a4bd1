"""How things are shown: tables, progress, and foreign text made harmless.  Knows nothing of what it shows."""
