"""Tables, pictures and reports of runs and comparisons."""
