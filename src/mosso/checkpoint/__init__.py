"""Files ↔ named tensors as stored."""
