"""Engines: who evaluates the shards of a run. Processes here, or actors on a Ray cluster; one dispatcher for both."""
