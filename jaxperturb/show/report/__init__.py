"""A study as one HTML file that needs nothing else: words, figures that answer to the mouse, tables, provenance."""
