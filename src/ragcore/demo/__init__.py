"""The demonstration: three members, their own documents, their own answers. `python -m ragcore.demo`."""
