"""The only place where scores become pixels."""
