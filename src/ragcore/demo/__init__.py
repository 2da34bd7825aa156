"""The demo. Each of three members has documents and gets answers only from these documents. Run `python -m ragcore.demo`."""
