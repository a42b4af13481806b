"""What a group is trained for: targets and figures."""
