"""The commands: they parse, call the API, and print."""
