"""Integrations. No other part of ragcore needs these modules; import those that you use."""
