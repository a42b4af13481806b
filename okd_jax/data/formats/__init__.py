"""What files hold data sets, one module a format."""
