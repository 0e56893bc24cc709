"""Runs become maps, maps become numbers, numbers become a report."""
