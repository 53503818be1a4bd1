"""Use-cases as functions: what the command line can do, with typed results.  Nothing here prints."""
