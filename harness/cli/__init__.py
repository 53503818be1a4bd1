"""The command line: one file per verb.  Verbs parse and print; what they do is in the other wings."""
