"""Models, who serves them, what they can do and what they cost."""
