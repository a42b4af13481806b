"""Reading finished runs and comparisons: tables, pictures, reports."""
