"""Images become activation ranges: image sets, preprocessing, calibration readers, range methods."""
