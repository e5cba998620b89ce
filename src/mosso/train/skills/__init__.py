"""What the demo model learns, one file a skill. A skill draws problems and says what a right answer is."""
