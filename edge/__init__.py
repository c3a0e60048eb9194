"""The edge: clients in, jobs out, answers back."""
