"""Workers: take jobs, call the provider, stream the answer back."""
