"""A make-believe provider that speaks the OpenAI wire format: deterministic, scriptable, cheap."""
