"""Everything that knows mmsegmentation; found by name (``runs.sources``), imported by nobody."""
