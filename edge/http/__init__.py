"""The HTTP ingress: OpenAI-format routes, and what operators look at."""
