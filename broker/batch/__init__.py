"""What a batch is, without the world around it: lines, chunks, states, rows of its files; pure."""
