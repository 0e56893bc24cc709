"""Maps and what is measured of them: pure functions of arrays."""
