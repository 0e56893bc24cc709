"""Image sets: files become pictures, and pictures become what networks see."""
