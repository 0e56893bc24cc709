"""Targets that take any bytes, and what drives them: `PYTHONPATH=tests python -m fuzz.run`. See docs/security.md."""
