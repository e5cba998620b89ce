"""The demo model: its data, training and examination. Nobody but the command line imports this room."""
