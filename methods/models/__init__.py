"""What is read from checkpoints: one catalogue, towers, tokenizers."""
