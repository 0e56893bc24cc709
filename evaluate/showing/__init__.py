"""What the report and the verdicts of a check are written and drawn with: figures as text, the look of charts, one chart."""
