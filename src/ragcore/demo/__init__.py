"""The demo: each of three members has documents and gets answers from these documents only. Run `python -m ragcore.demo`."""
