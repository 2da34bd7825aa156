"""The results of a run: files, an HTML page, and comparisons with other runs."""
