"""Attacks on the commands, run on an old commit and on this one: what falls, what holds. See docs/security.md."""
