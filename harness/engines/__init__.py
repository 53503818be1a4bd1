"""Engines: where the workers of a run are started.  They work for themselves; an engine starts, watches and ends them."""
