"""Engines: where the workers of a run are started.  An engine starts, watches and ends them; the work is theirs."""
