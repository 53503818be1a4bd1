"""The contract: what a method takes and gives.  Knows no model."""
