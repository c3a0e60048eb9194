"""`millrace batch`: runs files of prompts as batches, and looks after them."""
