"""What the verbs of the command line do.  One module per group of verbs, imported when its verb runs."""
