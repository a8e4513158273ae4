"""What comes after the series: asking, serving, publishing, the app."""
