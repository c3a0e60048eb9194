"""The contract and the state shared by edge and workers, and the broker process itself."""
