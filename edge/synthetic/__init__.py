"""A street with people, drawn by code: a camera for those who have none."""
