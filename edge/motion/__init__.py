"""What moves in a picture: found, followed over the hours, and tuned. No I/O but the command; time comes in."""
