"""What the console's figures show: each function reads the database in a few queries and gives a `Figure`."""
