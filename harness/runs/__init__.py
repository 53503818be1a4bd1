"""From a plan to checked counts on disk: run, plan, parts, manifest, pipeline, engine."""
