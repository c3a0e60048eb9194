"""One small declarative file per provider."""
