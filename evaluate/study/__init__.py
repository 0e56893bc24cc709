"""A study: what is planned, what was run, and the run itself."""
