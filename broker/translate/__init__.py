"""Client formats to the hub model and back; pure."""
