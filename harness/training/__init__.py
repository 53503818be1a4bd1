"""Training of heads and small encoders: one loop, one source of images, recipes."""
