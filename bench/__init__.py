"""Measures Millrace beside a bare relay and, on request, beside LiteLLM: `python -m bench`."""
