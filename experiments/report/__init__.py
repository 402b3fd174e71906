"""What a run came to: tables and pictures."""
