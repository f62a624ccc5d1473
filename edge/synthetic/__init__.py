"""A street with people and a room, drawn by code: cameras for those who have none."""
