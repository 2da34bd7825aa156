"""Places that documents come from: folders, patterns, object stores, lists of URLs, queries."""
